//! Everything of ACPI that start-up and dom0's builder use, read once.

use alloc::vec::Vec;

use xenolith_core::boot::PhysRange;

use super::{
    HEADER, Look, Table,
    fadt::{self, Fadt, SleepType},
    half,
    iommu::{self, Iommus},
    long,
    madt::Madt,
    srat::Srat,
    tables, whole,
};

/// Where the configuration of PCI devices lies in memory (one entry of the MCFG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    /// Physical address of bus 0, whether or not that bus is in the range.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

impl ConfigSpace {
    /// Where the configuration of its buses lies.
    #[must_use]
    pub fn range(&self) -> Option<PhysRange> {
        const BUS_SHIFT: u32 = 20;
        let buses = u64::from(self.last_bus.checked_sub(self.first_bus)?) + 1;
        let start = self
            .base
            .checked_add(u64::from(self.first_bus) << BUS_SHIFT)?;
        PhysRange::new(start, buses << BUS_SHIFT)
    }
}

/// What the tables say.
#[derive(Clone, Debug)]
pub struct Acpi<'m> {
    /// Physical address of the root pointer.
    pub root: u64,
    /// Every table that the root table lists and that is whole.
    pub tables: Vec<Table<'m>>,
    /// Interrupt controllers and CPUs.
    pub madt: Madt,
    /// Power-management registers.
    pub fadt: Option<Fadt>,
    /// What powers the machine off.
    pub power_off: Option<SleepType>,
    /// PCI configuration in memory.
    pub config_spaces: Vec<ConfigSpace>,
    /// Physical address of the first HPET's registers.
    pub hpet: Option<u64>,
    /// What is near to what.
    pub srat: Option<Srat>,
    /// Units that remap what devices send; one element for each table of such.
    pub iommus: Vec<Iommus>,
}

impl<'m> Acpi<'m> {
    /// Reads the tables that hang off the root pointer; the error says what is wrong.
    pub fn read(root: u64, look: Look<'_, 'm>) -> Result<Self, &'static str> {
        let tables = tables(root, look)?;
        let find = |signature: &[u8; 4]| tables.iter().find(|t| t.signature == *signature);
        let madt = find(b"APIC")
            .ok_or("ACPI has no table of interrupt controllers (MADT), or its sum is wrong")?;
        let madt = Madt::parse(madt.bytes)
            .ok_or("the ACPI table of the interrupt controllers (MADT) is cut short")?;
        let fadt = find(b"FACP").and_then(|table| Fadt::parse(table.bytes));
        let dsdt = fadt.and_then(|fadt| whole(fadt.dsdt, look));
        let more = tables.iter().filter(|t| t.signature == *b"SSDT");
        let power_off = dsdt
            .into_iter()
            .chain(more.map(|t| t.bytes))
            .find_map(|code| fadt::power_off_type(code.get(HEADER..)?));
        let hpet = find(b"HPET").and_then(|table| hpet(table.bytes));
        let config_spaces = find(b"MCFG").map_or(Vec::new(), |table| config_spaces(table.bytes));
        Ok(Self {
            root,
            madt,
            fadt,
            power_off,
            config_spaces,
            hpet,
            srat: find(b"SRAT").and_then(|table| Srat::parse(table.bytes)),
            iommus: [(b"DMAR", iommu::Kind::Dmar), (b"IVRS", iommu::Kind::Ivrs)]
                .into_iter()
                .filter_map(|(name, kind)| Iommus::parse(kind, find(name)?.bytes))
                .collect(),
            tables,
        })
    }

    /// Whether there is a table of this signature.
    #[must_use]
    pub fn has(&self, signature: &[u8; 4]) -> bool {
        self.tables.iter().any(|t| t.signature == *signature)
    }

    /// APIC numbers of the CPUs that can be used, each once: some firmware lists a CPU by entries of both kinds.
    pub fn apic_ids(&self) -> impl Iterator<Item = u32> + '_ {
        const MOST_ENTRIES: usize = 4096;
        let cpus = &self.madt.cpus;
        let cpus = cpus.get(..MOST_ENTRIES).unwrap_or(cpus);
        let usable = cpus.iter().enumerate().filter(|(_, cpu)| cpu.enabled);
        usable
            .filter(|(index, cpu)| {
                let mut before = cpus.iter().take(*index);
                !before.any(|other| other.enabled && other.id == cpu.id)
            })
            .map(|(_, cpu)| cpu.id)
    }
}

/// Where the timers are, if they are in memory.
fn hpet(table: &[u8]) -> Option<u64> {
    const ADDRESS: usize = 40;
    const IN_MEMORY: u8 = 0;
    let space = *table.get(ADDRESS)?;
    long(table, ADDRESS + 4).filter(|at| *at != 0 && space == IN_MEMORY)
}

fn config_spaces(table: &[u8]) -> Vec<ConfigSpace> {
    let entries = table.get(HEADER + 8..).unwrap_or_default();
    let entry = |bytes: &[u8]| {
        Some(ConfigSpace {
            base: long(bytes, 0)?,
            segment: half(bytes, 8)?,
            first_bus: *bytes.get(10)?,
            last_bus: *bytes.get(11)?,
        })
    };
    entries.chunks_exact(16).filter_map(entry).collect()
}

#[cfg(test)]
mod tests;
