//! `physdev_op` of PV domains (`physdev.h`): numbers for device interrupts, what the kernel's own I/O privilege is, and what it tells
//! of devices. All but the privilege is for the domain that owns the devices; others have no numbers.

use xenolith_abi::physdev::{
    Apic, Eoi, GetFreePirq, Irq, IrqStatus, IrqStatusQuery, ManagePci, MapPirq, MapPirqType,
    PciDevice, PciDeviceAdd, PciMmcfgReserved, PhysdevOp, PirqEoiGmfn, SetIobitmap, SetIopl,
    SetupGsi, UnmapPirq,
};
use xenolith_core::{DomId, Errno, event::PIRQS, guest::Caller, hypercall::Privilege};
use xenolith_hal::{Gfn, GuestVirt};

use crate::{
    X86_64,
    acpi::summary::ConfigSpace,
    guest::pci::Pci,
    ioapic,
    irq::pirqs::Pirqs,
    pci::Bdf,
    pirq::{Kind, Line},
    pv::memory::is_guest_address,
};

/// Serves the call.
pub fn physdev_op(caller: Caller<'_, X86_64>, cmd: u32, arg: GuestVirt) -> Result<i64, Errno> {
    let call = Call { caller, arg };
    match PhysdevOp::try_from(cmd)? {
        PhysdevOp::Eoi => call.end(),
        PhysdevOp::IrqStatusQuery => call.status(),
        PhysdevOp::SetIopl => call.set_iopl(),
        PhysdevOp::SetIobitmap => call.set_io_bitmap(),
        PhysdevOp::ApicRead => call.apic_read(),
        PhysdevOp::ApicWrite => call.apic_write(),
        PhysdevOp::AllocIrqVector => call.alloc_vector(),
        PhysdevOp::MapPirq => call.map(),
        PhysdevOp::UnmapPirq => call.unmap(),
        PhysdevOp::PirqEoiGmfnV1 => call.set_end_map(true),
        PhysdevOp::PirqEoiGmfnV2 => call.set_end_map(false),
        PhysdevOp::SetupGsi => call.setup_gsi(),
        PhysdevOp::GetFreePirq => call.free_number(),
        PhysdevOp::PciMmcfgReserved => call.config_space(),
        PhysdevOp::ManagePciAdd | PhysdevOp::ManagePciAddExt => call.added::<ManagePci>(),
        PhysdevOp::PciDeviceAdd => call.added::<PciDeviceAdd>(),
        PhysdevOp::ManagePciRemove => call.announced_old().map(|_| 0),
        PhysdevOp::PciDeviceRemove | PhysdevOp::PrepareMsix | PhysdevOp::ReleaseMsix => {
            call.announced().map(|_| 0)
        }
        PhysdevOp::RestoreMsi => call.restore(call.announced_old()?),
        PhysdevOp::RestoreMsiExt => call.restore(call.announced()?),
        PhysdevOp::DbgpOp => call.debug_port(),
        PhysdevOp::IrqUnmaskNotify => call.end_all(),
        PhysdevOp::FreeIrqVector => Err(Errno::ENOSYS),
    }
}

/// Serves the form of interfaces before 0x00030202: one struct with the operation in front, and no others than then.
pub fn physdev_op_compat(caller: Caller<'_, X86_64>, arg: GuestVirt) -> Result<i64, Errno> {
    /// Where what is asked for stands: it may begin with a pointer.
    const BODY: u64 = 8;
    let cmd: u32 = caller.read(arg)?;
    match PhysdevOp::try_from(cmd)? {
        PhysdevOp::IrqUnmaskNotify
        | PhysdevOp::IrqStatusQuery
        | PhysdevOp::SetIopl
        | PhysdevOp::SetIobitmap
        | PhysdevOp::ApicRead
        | PhysdevOp::ApicWrite
        | PhysdevOp::AllocIrqVector => physdev_op(caller, cmd, arg.plus(BODY)),
        _ => Err(Errno::ENOSYS),
    }
}

#[derive(Clone, Copy)]
struct Call<'a> {
    caller: Caller<'a, X86_64>,
    arg: GuestVirt,
}

impl<'a> Call<'a> {
    /// The numbers of the calling domain. `EPERM` where it owns no devices.
    fn pirqs(self) -> Result<&'a Pirqs, Errno> {
        self.caller.domain().arch.pirqs.as_ref().ok_or(Errno::EPERM)
    }

    fn pci(self) -> Result<&'a Pci, Errno> {
        Privilege::of(self.caller)?;
        self.caller.domain().arch.pci.as_ref().ok_or(Errno::ENODEV)
    }

    fn end(self) -> Result<i64, Errno> {
        let Eoi { irq } = self.caller.read(self.arg)?;
        let pirqs = self.pirqs().map_err(|_| Errno::EINVAL)?;
        pirqs.ended(self.caller.hv, self.caller.domain(), irq)?;
        Ok(0)
    }

    /// The old form, which does not say which number: the end of one that nobody began is no harm.
    fn end_all(self) -> Result<i64, Errno> {
        if let Ok(pirqs) = self.pirqs() {
            for irq in (0..PIRQS).filter(|irq| pirqs.has(*irq)) {
                let _ = pirqs.ended(self.caller.hv, self.caller.domain(), irq);
            }
        }
        Ok(0)
    }

    /// Who does not look at the map is told that each number needs an end: to tell of one too many is no harm.
    fn status(self) -> Result<i64, Errno> {
        let mut args: IrqStatusQuery = self.caller.read(self.arg)?;
        if args.irq >= PIRQS {
            return Err(Errno::EINVAL);
        }
        args.flags = IrqStatus::NEEDS_EOI;
        self.caller.write(self.arg, &args)?;
        Ok(0)
    }

    fn set_iopl(self) -> Result<i64, Errno> {
        let SetIopl { iopl } = self.caller.read(self.arg)?;
        let pv = self.caller.vcpu.arch.pv().ok_or(Errno::EINVAL)?;
        if iopl > 3 {
            return Err(Errno::EINVAL);
        }
        pv.iopl.set(iopl as u8);
        Ok(0)
    }

    fn set_io_bitmap(self) -> Result<i64, Errno> {
        const PORTS: u32 = 1 << 16;
        let args: SetIobitmap = self.caller.read(self.arg)?;
        let pv = self.caller.vcpu.arch.pv().ok_or(Errno::EINVAL)?;
        let at = args.bitmap.address();
        let end = at.wrapping_add(u64::from(args.nr_ports.div_ceil(8)));
        let is_bad = args.nr_ports > PORTS || !is_guest_address(at) || !is_guest_address(end);
        if is_bad {
            return Err(Errno::EINVAL);
        }
        pv.io_bitmap.set((at, args.nr_ports));
        Ok(0)
    }

    fn apic_read(self) -> Result<i64, Errno> {
        let mut args: Apic = self.caller.read(self.arg)?;
        Privilege::of(self.caller)?;
        args.value = ioapic::read(args.apic_physbase, args.reg).ok_or(Errno::EINVAL)?;
        self.caller.write(self.arg, &args)?;
        Ok(0)
    }

    /// What a line raises, and where, is the hypervisor's. How it signals is the domain's to say, until it is in use.
    fn apic_write(self) -> Result<i64, Errno> {
        const ACTIVE_LOW: u32 = 1 << 13;
        const LEVEL: u32 = 1 << 15;
        let args: Apic = self.caller.read(self.arg)?;
        Privilege::of(self.caller)?;
        if !ioapic::is_at(args.apic_physbase) {
            return Err(Errno::EINVAL);
        }
        if let Some((line, true)) = ioapic::line_of(args.apic_physbase, args.reg) {
            let how = Line {
                level: args.value & LEVEL != 0,
                active_low: args.value & ACTIVE_LOW != 0,
            };
            // A kernel may write what it wrote before.
            let _ = self.pirqs()?.set_line(line, how);
        }
        Ok(0)
    }

    /// Vectors are the hypervisor's. A kernel that wants one gets a number to keep.
    fn alloc_vector(self) -> Result<i64, Errno> {
        let mut args: Irq = self.caller.read(self.arg)?;
        args.vector = args.irq;
        self.caller.write(self.arg, &args)?;
        Ok(0)
    }

    /// Only for the caller itself: no device is given to another domain.
    fn own(self, domain: DomId) -> Result<(), Errno> {
        let own = self.caller.domain().id();
        if domain == DomId::SELF || domain == own {
            return Ok(());
        }
        let exists = self.caller.hv.domains.get(domain).is_some();
        Err(if exists { Errno::EPERM } else { Errno::ESRCH })
    }

    fn map(self) -> Result<i64, Errno> {
        /// How many a function can have without a table of them.
        const MESSAGES: core::ops::RangeInclusive<i32> = 1..=32;
        let mut args: MapPirq = self.caller.read(self.arg)?;
        self.own(args.domid)?;
        let pirqs = self.pirqs()?;
        let wanted = u32::try_from(args.pirq).ok();
        let number = match MapPirqType::try_from(args.kind)? {
            MapPirqType::Gsi => {
                let line = u32::try_from(args.index).map_err(|_| Errno::EINVAL)?;
                pirqs.map_line(line, wanted)?
            }
            MapPirqType::MultiMsi if !MESSAGES.contains(&args.entry_nr) => return Err(Errno::EDOM),
            MapPirqType::MultiMsi if args.entry_nr > 1 => {
                // So many can be had at a time.
                return Ok(1);
            }
            kind @ (MapPirqType::Msi | MapPirqType::MsiSeg | MapPirqType::MultiMsi) => {
                let message = message(kind, &args)?;
                let (hv, domain) = (self.caller.hv, self.caller.domain());
                pirqs.map_message(hv, domain, message, wanted)?
            }
            MapPirqType::Unknown => return Err(Errno::EINVAL),
        };
        args.pirq = number as i32;
        self.caller.write(self.arg, &args)?;
        Ok(0)
    }

    fn unmap(self) -> Result<i64, Errno> {
        let args: UnmapPirq = self.caller.read(self.arg)?;
        self.own(args.domid)?;
        let number = u32::try_from(args.pirq).map_err(|_| Errno::EINVAL)?;
        let (hv, domain) = (self.caller.hv, self.caller.domain());
        self.pirqs()?.unmap(hv, domain, number)?;
        Ok(0)
    }

    fn set_end_map(self, end_unmasks: bool) -> Result<i64, Errno> {
        let PirqEoiGmfn { gmfn } = self.caller.read(self.arg)?;
        let (hv, domain) = (self.caller.hv, self.caller.domain());
        let pirqs = self.pirqs()?;
        pirqs.set_end_map(hv, domain, Gfn(gmfn), end_unmasks)?;
        Ok(0)
    }

    fn setup_gsi(self) -> Result<i64, Errno> {
        let args: SetupGsi = self.caller.read(self.arg)?;
        Privilege::of(self.caller)?;
        let line = u32::try_from(args.gsi).map_err(|_| Errno::EINVAL)?;
        let how = Line {
            level: args.triggering != 0,
            active_low: args.polarity != 0,
        };
        self.pirqs()?.set_up_line(line, how)?;
        Ok(0)
    }

    fn free_number(self) -> Result<i64, Errno> {
        let mut args: GetFreePirq = self.caller.read(self.arg)?;
        let kind = match MapPirqType::try_from(args.kind) {
            Ok(MapPirqType::Gsi) => Kind::Line,
            _ => Kind::Message,
        };
        args.pirq = self.pirqs()?.reserve(kind)?;
        self.caller.write(self.arg, &args)?;
        Ok(0)
    }

    fn config_space(self) -> Result<i64, Errno> {
        const RESERVED: u32 = 1;
        let args: PciMmcfgReserved = self.caller.read(self.arg)?;
        if args.flags & !RESERVED != 0 {
            return Err(Errno::EINVAL);
        }
        let space = ConfigSpace {
            base: args.address,
            segment: args.segment,
            first_bus: args.start_bus,
            last_bus: args.end_bus,
        };
        self.pci()?.has_space(&space).map(|()| 0)
    }

    /// All devices were found at start-up: there is nothing to learn.
    fn added<T: Announcement>(self) -> Result<i64, Errno> {
        T::read(self)?;
        Privilege::of(self.caller)?;
        Ok(0)
    }

    fn found(self, segment: u16, bus: u8, function: u8) -> Result<Bdf, Errno> {
        let at = Bdf(u16::from(bus) << 8 | u16::from(function));
        match segment == 0 && self.pci()?.has(at) {
            true => Ok(at),
            false => Err(Errno::ENODEV),
        }
    }

    fn announced(self) -> Result<Bdf, Errno> {
        let args: PciDevice = self.caller.read(self.arg)?;
        self.found(args.seg, args.bus, args.devfn)
    }

    fn announced_old(self) -> Result<Bdf, Errno> {
        let args: ManagePci = self.caller.read(self.arg)?;
        self.found(0, args.bus, args.devfn)
    }

    fn restore(self, at: Bdf) -> Result<i64, Errno> {
        let (hv, domain) = (self.caller.hv, self.caller.domain());
        self.pci()?.restore(hv, domain, at)?;
        Ok(0)
    }

    /// The hypervisor's console is no USB debug port: its resets are the domain's own affair.
    fn debug_port(self) -> Result<i64, Errno> {
        let _: u32 = self.caller.read(self.arg)?;
        Privilege::of(self.caller)?;
        Ok(0)
    }
}

/// Which message a call means: that of MSI, or where the table of MSI-X is told as well, an entry of it.
fn message(kind: MapPirqType, args: &MapPirq) -> Result<(Bdf, Option<u16>), Errno> {
    let segment = match kind {
        MapPirqType::Msi => 0,
        _ => args.bus >> 16,
    };
    if segment != 0 {
        return Err(Errno::ENODEV);
    }
    // Higher bits say nothing.
    let (bus, function) = (args.bus as u8, args.devfn as u8);
    let at = Bdf(u16::from(bus) << 8 | u16::from(function));
    let entry = match args.table_base {
        0 => None,
        _ => Some(u16::try_from(args.entry_nr).map_err(|_| Errno::EINVAL)?),
    };
    Ok((at, entry))
}

/// What tells of a new device.
trait Announcement {
    fn read(call: Call<'_>) -> Result<(), Errno>;
}

impl Announcement for ManagePci {
    fn read(call: Call<'_>) -> Result<(), Errno> {
        call.caller.read::<Self>(call.arg).map(drop)
    }
}

impl Announcement for PciDeviceAdd {
    fn read(call: Call<'_>) -> Result<(), Errno> {
        call.caller.read::<Self>(call.arg).map(drop)
    }
}
