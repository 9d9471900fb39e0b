//! Everything of ACPI that start-up and dom0's builder use, read once.

use alloc::vec::Vec;

use xenolith_core::boot::PhysRange;

use super::{
    HEADER, Look, Table,
    fadt::{self, Fadt, SleepType},
    half, long,
    madt::Madt,
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
        let hpet = find(b"HPET").and_then(|table| long(table.bytes, 44));
        let config_spaces = find(b"MCFG").map_or(Vec::new(), |table| config_spaces(table.bytes));
        Ok(Self {
            root,
            madt,
            fadt,
            power_off,
            config_spaces,
            hpet,
            tables,
        })
    }

    /// Whether there is a table of this signature: SRAT, DMAR, IVRS and others that are only reported.
    #[must_use]
    pub fn has(&self, signature: &[u8; 4]) -> bool {
        self.tables.iter().any(|t| t.signature == *signature)
    }

    /// APIC numbers of the CPUs that can be used.
    pub fn apic_ids(&self) -> impl Iterator<Item = u32> + '_ {
        let usable = self.madt.cpus.iter().filter(|cpu| cpu.enabled);
        usable.map(|cpu| cpu.id)
    }
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
