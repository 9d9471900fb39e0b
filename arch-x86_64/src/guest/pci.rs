//! PCI for the domain that owns the machine's devices: configuration space by ports (mechanism 1, PCI Local Bus
//! Specification 3.0, 3.2.2.3.2) and in memory (PCI Firmware Specification 3.0, 4.1), the devices' memory, and the tables of
//! their messages. What it may do there is [`Functions`]'s to decide; here is the machine under it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use x86_64::instructions::port::Port;
use xenolith_core::{DomainRef, Errno, Hypervisor, boot::PhysRange};
use xenolith_hal::{
    Gfn, GuestPhys, Mfn, P2m, P2mType, PAGE_SHIFT, PAGE_SIZE,
    sync::{Mutex, Rank},
};

use super::{exit::Context, hardware::Hardware, mmio, port};
use crate::{
    X86_64,
    acpi::summary::ConfigSpace,
    irq::messages,
    machine,
    mm::peephole,
    pci::{Arrival, Bdf, Bus, Functions, Place, Signal, Slot, Wants},
};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
const PAGE: u64 = PAGE_SIZE as u64;
/// Registers that the ports reach.
const BY_PORTS: u16 = 0x100;
/// Where messages go: no device's registers are there.
const MESSAGES: PhysRange = PhysRange::between(0xfee0_0000, 0xfef0_0000);
/// What real mode reaches is RAM, or the chipset's.
const LOW: PhysRange = PhysRange::between(0, 1 << 20);

/// Makes address and data one step.
static PORTS: Mutex<()> = Mutex::new(Rank::Console, ());

/// The functions, and what the domain wrote to the address port.
pub struct Pci {
    address: AtomicU32,
    spaces: Vec<ConfigSpace>,
    functions: Mutex<Functions>,
}

impl Pci {
    /// Takes all functions over; none sends a message from now on.
    pub fn new(spaces: &[ConfigSpace], wants: Wants) -> Self {
        // Firmware that says RAM is configuration space is not believed.
        let believed = |space: &&ConfigSpace| {
            space
                .range()
                .is_some_and(|range| !machine::has_memory(&range))
        };
        let spaces: Vec<ConfigSpace> = spaces.iter().filter(believed).copied().collect();
        let spaces = spaces.as_slice();
        let mut bus = Machine {
            spaces,
            domain: None,
        };
        let extended = |at: Bdf| extended_place(spaces, at, 0).is_some();
        let functions = Functions::find(&mut bus, extended, wants);
        log::debug!("PCI: {} functions", functions.count());
        Self {
            address: AtomicU32::new(0),
            spaces: spaces.to_vec(),
            functions: Mutex::new(Rank::Vcpu, functions),
        }
    }

    fn with<R>(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        f: impl FnOnce(&mut Functions, &mut Machine<'_>) -> R,
    ) -> R {
        let mut functions = self.functions.lock();
        let mut bus = Machine {
            spaces: &self.spaces,
            domain: Some((hv, domain)),
        };
        f(&mut functions, &mut bus)
    }

    /// The domain's memory is mapped: nothing of it shows a table of messages.
    pub fn guard_tables(&self, hv: &Hypervisor<X86_64>, domain: &DomainRef<X86_64>) {
        self.with(hv, domain, |functions, bus| {
            functions.tables().for_each(|table| bus.forget(table));
        });
    }

    /// Gives a message of a function a number ([`Functions::number`]).
    pub fn number(
        &self,
        (hv, domain): (&Hypervisor<X86_64>, &DomainRef<X86_64>),
        at: Bdf,
        entry: Option<u16>,
        number: u16,
    ) -> Result<(), Errno> {
        self.with(hv, domain, |functions, bus| {
            functions.number(bus, at, entry, number)
        })
    }

    /// Takes the number away.
    pub fn forget_number(
        &self,
        (hv, domain): (&Hypervisor<X86_64>, &DomainRef<X86_64>),
        at: Bdf,
        entry: Option<u16>,
    ) {
        self.with(hv, domain, |functions, bus| {
            functions.forget_number(bus, at, entry);
        });
    }

    /// A function was reset: its messages are as before. `ENODEV` where there is none.
    pub fn restore(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        at: Bdf,
    ) -> Result<(), Errno> {
        self.with(hv, domain, |functions, bus| functions.restore(bus, at))
    }

    /// Whether a function is there.
    pub fn has(&self, at: Bdf) -> bool {
        self.functions.lock().has(at)
    }

    /// Whether configuration space is in memory at an address for these buses: `ENODEV` when it is nowhere, `EIO` elsewhere.
    pub fn has_space(&self, space: &ConfigSpace) -> Result<(), Errno> {
        let is_of_buses = |one: &&ConfigSpace| {
            ConfigSpace {
                base: space.base,
                ..**one
            } == *space
        };
        let found = self.spaces.iter().find(is_of_buses);
        match found.ok_or(Errno::ENODEV)?.base == space.base {
            true => Ok(()),
            false => Err(Errno::EIO),
        }
    }

    /// What the domain may do itself in a page of device memory.
    pub fn access(&self, page: &PhysRange) -> Access {
        let spaces = self.spaces.iter().filter_map(ConfigSpace::range);
        let tables = |functions: &Functions| functions.tables().any(|table| table.overlaps(page));
        if MESSAGES.overlaps(page) {
            Access::None
        } else if spaces.into_iter().any(|space| space.overlaps(page))
            || tables(&self.functions.lock())
        {
            Access::Read
        } else {
            Access::Write
        }
    }

    /// A write of the domain to a page that it may only read: configuration space, or a page with a table of messages. Anything
    /// else goes nowhere.
    pub fn write_memory(
        &self,
        hv: &Hypervisor<X86_64>,
        domain: &DomainRef<X86_64>,
        (address, size): (u64, usize),
        value: u64,
    ) {
        self.with(hv, domain, |functions, bus| match self.in_config(address) {
            Some(Some((at, register))) if size <= 4 => {
                functions.write(bus, at, register, size as u8, value as u32);
            }
            Some(_) => {}
            None if functions.place(address) == Place::Table => {
                functions.memory_write(bus, address, size, value);
            }
            None => {}
        });
    }

    /// The domain is gone: its devices do nothing more.
    pub fn close(&self) {
        let mut bus = Machine {
            spaces: &self.spaces,
            domain: None,
        };
        self.functions.lock().close(&mut bus);
    }

    /// What an access of the data port means, if the address is enabled.
    fn target(&self, port: u16) -> Option<(Bdf, u16)> {
        let byte = port.checked_sub(DATA).filter(|byte| *byte < 4)?;
        let address = self.address.load(Relaxed);
        if address & ENABLE == 0 {
            return None;
        }
        Some((Bdf((address >> 8) as u16), address as u16 & 0xfc | byte))
    }

    /// Whether an address is in configuration space, and where: none for a segment that has no ports, which stays hidden.
    fn in_config(&self, address: u64) -> Option<Option<(Bdf, u16)>> {
        self.spaces.iter().find_map(|space| {
            let range = space.range()?;
            let at = PhysRange::new(address, 1)?;
            range.contains(&at).then(|| {
                let offset = address - space.base;
                let function = Bdf((offset >> 12) as u16);
                (space.segment == 0).then_some((function, (offset & 0xfff) as u16))
            })
        })
    }
}

/// Reads a port for a stopped guest; all ones where nothing is.
pub fn port_read<H: Hardware>(cx: &Context<'_, H>, port: u16, size: u8) -> u32 {
    read_port(cx.hv(), cx.vcpu.domain(), port, size)
}

/// Writes a port for a stopped guest.
pub fn port_write<H: Hardware>(cx: &Context<'_, H>, port: u16, size: u8, value: u32) {
    write_port(cx.hv(), cx.vcpu.domain(), port, size, value);
}

/// Reads a port; all ones where nothing is.
pub fn read_port(hv: &Hypervisor<X86_64>, domain: &DomainRef<X86_64>, port: u16, size: u8) -> u32 {
    let Some(pci) = &domain.arch.pci else {
        return u32::MAX;
    };
    if port == ADDRESS && size == 4 {
        return pci.address.load(Relaxed);
    }
    pci.target(port).map_or(u32::MAX, |(at, register)| {
        pci.with(hv, domain, |functions, bus| {
            functions.read(bus, at, register, size)
        })
    })
}

/// Writes a port.
pub fn write_port(
    hv: &Hypervisor<X86_64>,
    domain: &DomainRef<X86_64>,
    port: u16,
    size: u8,
    value: u32,
) {
    let Some(pci) = &domain.arch.pci else {
        return;
    };
    if port == ADDRESS && size == 4 {
        pci.address.store(value & 0x80ff_fffc, Relaxed);
    } else if let Some((at, register)) = pci.target(port) {
        pci.with(hv, domain, |functions, bus| {
            functions.write(bus, at, register, size, value);
        });
    }
}

/// What is behind an address that is not mapped.
pub enum Found {
    /// Registers, which are mapped now.
    Mapped,
    /// Something that is emulated.
    Emulated(Memory),
    /// Nothing.
    Nothing,
}

/// Looks at an address that the domain touched, and maps it if registers are there that are its own to touch.
pub fn find<H: Hardware>(cx: &Context<'_, H>, at: GuestPhys) -> Found {
    let domain = cx.vcpu.domain();
    let Some(pci) = &domain.arch.pci else {
        return Found::Nothing;
    };
    if pci.in_config(at.0).is_some() {
        return Found::Emulated(Memory::Config);
    }
    pci.with(cx.hv(), domain, |functions, bus| {
        match functions.place(at.0) {
            Place::Table => Found::Emulated(Memory::Table),
            Place::Registers if bus.map(functions, at) => Found::Mapped,
            _ => Found::Nothing,
        }
    })
}

/// Memory of PCI that is emulated.
#[derive(Clone, Copy)]
pub enum Memory {
    /// Configuration space.
    Config,
    /// A page with a table of messages.
    Table,
}

impl<H: Hardware> mmio::Device<H> for Memory {
    fn read(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize) -> u64 {
        let domain = cx.vcpu.domain();
        let Some(pci) = &domain.arch.pci else {
            return u64::MAX;
        };
        pci.with(cx.hv(), domain, |functions, bus| match self {
            Self::Table => functions.memory_read(bus, address, size),
            Self::Config => {
                let mut word = |address| match pci.in_config(address) {
                    Some(Some((at, register))) => functions.read(bus, at, register, size as u8),
                    _ => u32::MAX,
                };
                match size {
                    8 => u64::MAX,
                    _ => word(address).into(),
                }
            }
        })
    }

    fn write(&mut self, cx: &mut Context<'_, H>, address: u64, size: usize, value: u64) {
        let domain = cx.vcpu.domain();
        let Some(pci) = &domain.arch.pci else {
            return;
        };
        pci.with(cx.hv(), domain, |functions, bus| match self {
            Self::Table => functions.memory_write(bus, address, size, value),
            Self::Config => {
                if let Some(Some((at, register))) = pci.in_config(address) {
                    functions.write(bus, at, register, size as u8, value as u32);
                }
            }
        });
    }
}

/// What a domain may do itself in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// The machine's buses.
struct Machine<'a> {
    spaces: &'a [ConfigSpace],
    /// Whose memory shows device registers; none before it has any, and after its end.
    domain: Option<(&'a Hypervisor<X86_64>, &'a DomainRef<X86_64>)>,
}

/// Where in memory a register of a function's configuration is.
fn extended_place(spaces: &[ConfigSpace], at: Bdf, register: u16) -> Option<u64> {
    let bus = (at.0 >> 8) as u8;
    let space = spaces
        .iter()
        .find(|space| space.segment == 0 && (space.first_bus..=space.last_bus).contains(&bus))?;
    space
        .base
        .checked_add(u64::from(at.0) << 12 | u64::from(register))
}

fn select(at: Bdf, register: u16) -> u16 {
    let address = ENABLE | u32::from(at.0) << 8 | u32::from(register & 0xfc);
    // SAFETY: the address port; the caller's lock makes it one step with the access that follows.
    unsafe { Port::<u32>::new(ADDRESS).write(address) }
    DATA + (register & 3)
}

impl Machine<'_> {
    /// Maps the page, or the block of pages if all of it is one device's.
    fn map(&self, functions: &Functions, at: GuestPhys) -> bool {
        const BLOCK: u64 = 512;
        let Some((hv, domain)) = self.domain else {
            return false;
        };
        let range = |gfn: Gfn, count: u64| PhysRange::new(gfn.0 << PAGE_SHIFT, count * PAGE);
        let page = at.frame();
        let block = Gfn(page.0 & !(BLOCK - 1));
        let whole = range(block, BLOCK).is_some_and(|range| functions.is_registers(&range));
        let (first, count) = if whole { (block, BLOCK) } else { (page, 1) };
        if first >= domain.p2m.limit() || !range(first, count).is_some_and(|r| self.may_hold(r)) {
            return false;
        }
        let tables = hv.tables(domain);
        let kind = P2mType::MmioDirect;
        let mapped = domain.p2m.map(first, Mfn(first.0), count, kind, &tables);
        mapped.is_ok()
    }
}

impl Bus for Machine<'_> {
    fn config_read(&mut self, at: Bdf, register: u16, size: u8) -> u32 {
        if register >= BY_PORTS {
            return match extended_place(self.spaces, at, register) {
                // SAFETY: the configuration of a device, where firmware says; reading changes nothing of the hypervisor's.
                Some(place) => unsafe { peephole::read(place, size.into()) as u32 },
                None => u32::MAX,
            };
        }
        let _held = PORTS.lock();
        let port = select(at, register);
        // SAFETY: the data port, with the address selected under the same lock.
        unsafe {
            match size {
                1 => Port::<u8>::new(port).read().into(),
                2 => Port::<u16>::new(port).read().into(),
                _ => Port::<u32>::new(port).read(),
            }
        }
    }

    fn config_write(&mut self, at: Bdf, register: u16, size: u8, value: u32) {
        if register >= BY_PORTS {
            if let Some(place) = extended_place(self.spaces, at, register) {
                // SAFETY: as above; the emulation keeps back what would move memory or messages.
                unsafe { peephole::write(place, size.into(), value.into()) }
            }
            return;
        }
        let _held = PORTS.lock();
        let port = select(at, register);
        // SAFETY: as above.
        unsafe {
            match size {
                1 => Port::<u8>::new(port).write(value as u8),
                2 => Port::<u16>::new(port).write(value as u16),
                _ => Port::<u32>::new(port).write(value),
            }
        }
    }

    fn memory_read(&mut self, address: u64, size: usize) -> u64 {
        // SAFETY: memory that a device decodes, and no RAM: it was looked at when the device began to.
        unsafe { peephole::read(address, size) }
    }

    fn memory_write(&mut self, address: u64, size: usize, value: u64) {
        // SAFETY: as above.
        unsafe { peephole::write(address, size, value) }
    }

    fn open(&mut self, arrival: Arrival) -> Option<(Slot, Signal)> {
        messages::open(self.domain?.0, arrival)
    }

    fn change(&mut self, slot: Slot, arrival: Arrival) {
        messages::change(slot, arrival);
    }

    fn close(&mut self, slot: Slot) {
        messages::close(slot);
    }

    fn may_hold(&self, range: PhysRange) -> bool {
        let spaces = self.spaces.iter().filter_map(ConfigSpace::range);
        !machine::has_memory(&range)
            && !machine::keeps(&range)
            && !spaces
                .chain([MESSAGES, LOW])
                .any(|taken| taken.overlaps(&range))
    }

    fn may_have_ports(&self, first: u64, size: u64) -> bool {
        let last = first.saturating_add(size.saturating_sub(1));
        !port::KEPT
            .iter()
            .any(|kept| first <= u64::from(*kept.end()) && u64::from(*kept.start()) <= last)
    }

    fn forget(&mut self, range: PhysRange) {
        let (Some((hv, domain)), Some(range)) = (self.domain, range.page_outer()) else {
            return;
        };
        let tables = hv.tables(domain);
        let end = range.end() >> PAGE_SHIFT;
        let mut next = range.start() >> PAGE_SHIFT;
        while let Some((gfn, entry, count)) = domain.p2m.next_mapped(Gfn(next)) {
            if gfn.0 >= end {
                break;
            }
            let count = count.min(end - gfn.0);
            // What else the domain may have put there, a grant perhaps, stays.
            if entry.kind == P2mType::MmioDirect {
                let _ = domain.p2m.unmap(gfn, count, &tables);
            }
            next = gfn.0 + count;
        }
    }
}
