//! Parameters and state of translated guests (HVM, PVH, ARM).
//!
//! Headers: `hvm/hvm_op.h`, `hvm/params.h`. A parameter is a 64-bit value with a number; who may read or
//! set which is the core's business. Device-model types and alternate views are known by number only.

use crate::Errno;
use crate::ids::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

wire_enum! {
    /// A sub-operation of `hvm_op`.
    pub enum HvmOp: u32, unknown is ENOSYS {
        /// Sets a parameter: [`HvmParam`].
        SetParam = 0,
        /// Reads a parameter: [`HvmParam`].
        GetParam = 1,
        /// Flushes the TLBs of all vCPUs; the argument must be null.
        FlushTlbs = 5,
        /// Hint: a page table goes away: [`PagetableDying`].
        PagetableDying = 9,
        /// Tells system time: [`GetTime`].
        GetTime = 10,
        /// Puts a record into the trace buffer.
        Xentrace = 11,
        /// Old way to set access rights of memory.
        SetMemAccess = 12,
        /// Old way to ask for access rights of memory.
        GetMemAccess = 13,
        /// Asks what a guest frame is: [`GetMemType`].
        GetMemType = 15,
        /// x86: the upcall vector of one vCPU: [`EvtchnUpcallVector`].
        SetEvtchnUpcallVector = 23,
        /// Sends an event to an introspection tool; no argument.
        GuestRequestVmEvent = 24,
        /// Alternate views of guest memory.
        Altp2m = 25,
    }
}

/// Parameter numbers are below this; others are `EINVAL`.
pub const NR_PARAMS: u32 = 39;

wire_enum! {
    /// A parameter (`HVM_PARAM_*`), those marked deprecated included.
    pub enum Param: u32, unknown is EINVAL {
        /// How event-channel upcalls reach the guest: [`CallbackVia`].
        CallbackIrq = 0,
        /// Guest frame of the XenStore ring.
        StorePfn = 1,
        /// Guest's port for XenStore.
        StoreEvtchn = 2,
        /// Deprecated: page-address extension.
        PaeEnabled = 4,
        /// Guest frame of the device-model page.
        IoreqPfn = 5,
        /// Guest frame of the buffered device-model page.
        BufioreqPfn = 6,
        /// x86: Hyper-V features on offer.
        Viridian = 9,
        /// x86: how missed timer ticks are made up for.
        TimerMode = 10,
        /// x86: HPET on or off.
        HpetEnabled = 11,
        /// x86: identity page table for unpaged mode.
        IdentPt = 12,
        /// Deprecated: domain of the device model.
        DmDomain = 13,
        /// ACPI sleep state.
        AcpiSState = 14,
        /// x86: task segment for real mode.
        Vm86Tss = 15,
        /// x86: align periodic timers.
        VptAlign = 16,
        /// Guest frame of the console ring.
        ConsolePfn = 17,
        /// Guest's port for the console.
        ConsoleEvtchn = 18,
        /// x86: place of the ACPI timer ports.
        AcpiIoportsLocation = 19,
        /// Deprecated: event on CR0.
        MemoryEventCr0 = 20,
        /// Deprecated: event on CR3.
        MemoryEventCr3 = 21,
        /// Deprecated: event on CR4.
        MemoryEventCr4 = 22,
        /// Deprecated: event on INT3.
        MemoryEventInt3 = 23,
        /// Deprecated: nested virtualisation.
        Nestedhvm = 24,
        /// Deprecated: event on single step.
        MemoryEventSingleStep = 25,
        /// Deprecated: port of the buffered device-model page.
        BufioreqEvtchn = 26,
        /// Guest frame of the paging ring.
        PagingRingPfn = 27,
        /// Guest frame of the monitor ring.
        MonitorRingPfn = 28,
        /// Guest frame of the sharing ring.
        SharingRingPfn = 29,
        /// Deprecated: event on MSR.
        MemoryEventMsr = 30,
        /// x86: shutdown reason after a triple fault.
        TripleFaultReason = 31,
        /// First guest frame of the ioreq servers.
        IoreqServerPfn = 32,
        /// How many such frames.
        NrIoreqServerPages = 33,
        /// Guest-physical address of the VM generation id.
        VmGenerationIdAddr = 34,
        /// x86: alternate views on or off.
        Altp2m = 35,
        /// x86: width of the x87 instruction pointer to save.
        X87FipWidth = 36,
        /// x86: task segment for real mode, with its size.
        Vm86TssSized = 37,
        /// x86: machine-check capabilities.
        McaCap = 38,
    }
}

/// Argument of [`HvmOp::SetParam`] and [`HvmOp::GetParam`] (`xen_hvm_param`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmParam {
    /// In: whose parameter.
    pub domid: DomId,
    #[doc(hidden)]
    pub pad: u16,
    /// In: a number of [`Param`].
    pub index: u32,
    /// In or out: its value.
    pub value: u64,
}

/// Argument of [`HvmOp::PagetableDying`] (`xen_hvm_pagetable_dying`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PagetableDying {
    /// In: the domain.
    pub domid: DomId,
    #[doc(hidden)]
    pub pad: [u16; 3],
    /// In: guest-physical address of the top-level table.
    pub gpa: u64,
}

/// Result of [`HvmOp::GetTime`] (`xen_hvm_get_time`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetTime {
    /// Out: nanoseconds since boot.
    pub now: u64,
}

/// Argument of [`HvmOp::GetMemType`] (`xen_hvm_get_mem_type`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetMemType {
    /// In: the domain.
    pub domid: DomId,
    /// Out: a number of [`MemType`].
    pub mem_type: u16,
    #[doc(hidden)]
    pub pad: [u16; 2],
    /// In: the guest frame.
    pub pfn: u64,
}

wire_enum! {
    /// What a guest frame is (`HVMMEM_*`).
    pub enum MemType: u16, unknown is EINVAL {
        /// Memory.
        RamRw = 0,
        /// Memory whose writes are dropped.
        RamRo = 1,
        /// Emulated by the device model.
        MmioDm = 2,
        /// Not in use any more.
        Unused = 3,
        /// Claimed by an ioreq server.
        IoreqServer = 4,
    }
}

/// Argument of [`HvmOp::SetEvtchnUpcallVector`] (`xen_hvm_evtchn_upcall_vector`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EvtchnUpcallVector {
    /// In: the vCPU.
    pub vcpu: u32,
    /// In: the vector.
    pub vector: u8,
    #[doc(hidden)]
    pub _pad: [u8; 3],
}

/// How the value of [`Param::CallbackIrq`] names its kind: the top byte.
pub const CALLBACK_TYPE_MASK: u64 = 0xff << 56;

/// How event-channel upcalls reach the guest, decoded from [`Param::CallbackIrq`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackVia {
    /// Not at all.
    None,
    /// By a global interrupt line.
    Gsi(u64),
    /// By a PCI interrupt pin.
    PciIntx {
        /// PCI segment.
        domain: u16,
        /// Bus.
        bus: u16,
        /// Device and function.
        devfn: u8,
        /// Pin, 0 to 3.
        pin: u8,
    },
    /// x86: by a vector of the local APIC; ARM: by a private peripheral interrupt whose flags stand
    /// in bits 15:8.
    Local {
        /// Vector, or interrupt number of the GIC.
        number: u8,
        /// ARM: bit 0 edge triggered, bit 1 active low.
        flags: u8,
    },
}

impl CallbackVia {
    /// Type byte of [`CallbackVia::Gsi`].
    pub const TYPE_GSI: u8 = 0;
    /// Type byte of [`CallbackVia::PciIntx`].
    pub const TYPE_PCI_INTX: u8 = 1;
    /// Type byte of [`CallbackVia::Local`]: a vector on x86, a PPI on ARM.
    pub const TYPE_LOCAL: u8 = 2;

    /// Reads a parameter value. A type that the ABI does not know is `EINVAL`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the type byte is unknown.
    pub const fn decode(value: u64) -> Result<Self, Errno> {
        if value == 0 {
            return Ok(Self::None);
        }
        match (value >> 56) as u8 {
            Self::TYPE_GSI => Ok(Self::Gsi(value & !CALLBACK_TYPE_MASK)),
            Self::TYPE_PCI_INTX => Ok(Self::PciIntx {
                domain: (value >> 32) as u16,
                bus: (value >> 16) as u16,
                devfn: (value >> 8) as u8,
                pin: (value & 3) as u8,
            }),
            Self::TYPE_LOCAL => Ok(Self::Local {
                number: value as u8,
                flags: (value >> 8) as u8,
            }),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The parameter value that says this.
    #[must_use]
    pub const fn encode(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Gsi(gsi) => gsi & !CALLBACK_TYPE_MASK,
            Self::PciIntx {
                domain,
                bus,
                devfn,
                pin,
            } => {
                (Self::TYPE_PCI_INTX as u64) << 56
                    | (domain as u64) << 32
                    | (bus as u64) << 16
                    | (devfn as u64) << 8
                    | (pin & 3) as u64
            }
            Self::Local { number, flags } => {
                (Self::TYPE_LOCAL as u64) << 56 | (flags as u64) << 8 | number as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CallbackVia;
    use crate::Errno;

    #[test]
    fn a_callback_survives_encoding() {
        for via in [
            CallbackVia::None,
            CallbackVia::Gsi(9),
            CallbackVia::PciIntx {
                domain: 1,
                bus: 2,
                devfn: 0x18,
                pin: 3,
            },
            CallbackVia::Local {
                number: 31,
                flags: 2,
            },
        ] {
            assert_eq!(CallbackVia::decode(via.encode()), Ok(via));
        }
    }

    #[test]
    fn an_unknown_callback_type_is_refused() {
        assert_eq!(CallbackVia::decode(3 << 56 | 1), Err(Errno::EINVAL));
        assert_eq!(CallbackVia::decode(u64::MAX), Err(Errno::EINVAL));
    }

    #[test]
    fn the_value_that_linux_on_arm_passes_is_a_level_ppi() {
        let value = 2 << 56 | 2 << 8 | 31;
        assert_eq!(
            CallbackVia::decode(value),
            Ok(CallbackVia::Local {
                number: 31,
                flags: 2
            })
        );
    }
}
