//! Why a guest stopped, from what the control structure says (Intel SDM, volume 3, appendix C and 28.2.1). Pure: tested
//! with recorded values.

use tock_registers::{LocalRegisterCopy, register_bitfields};

use crate::guest::hardware::{ControlAccess, Exit, MemoryFault, PortAccess};

use super::event::EventInfo;

register_bitfields! {u64,
    /// Qualification of an exit by IN, OUT, INS or OUTS.
    Port [
        /// Bytes, less one.
        SIZE OFFSET(0) NUMBITS(3) [],
        IN OFFSET(3) NUMBITS(1) [],
        STRING OFFSET(4) NUMBITS(1) [],
        REPEAT OFFSET(5) NUMBITS(1) [],
        PORT OFFSET(16) NUMBITS(16) [],
    ],
    /// Qualification of an exit by an access to a control register.
    ControlRegister [
        NUMBER OFFSET(0) NUMBITS(4) [],
        KIND OFFSET(4) NUMBITS(2) [
            Write = 0,
            Read = 1,
            Clts = 2,
            Lmsw = 3,
        ],
        GENERAL OFFSET(8) NUMBITS(4) [],
        LMSW_SOURCE OFFSET(16) NUMBITS(16) [],
    ],
    /// Qualification of an exit that the second-level tables caused.
    EptViolation [
        READ OFFSET(0) NUMBITS(1) [],
        WRITE OFFSET(1) NUMBITS(1) [],
        FETCH OFFSET(2) NUMBITS(1) [],
        /// What the tables allow.
        RIGHTS OFFSET(3) NUMBITS(3) [],
        /// The access was to a linear address.
        LINEAR OFFSET(7) NUMBITS(1) [],
        /// Not to a table on the way to it.
        FINAL OFFSET(8) NUMBITS(1) [],
        /// An IRET had opened for non-maskable interrupts.
        NMI_UNBLOCKED OFFSET(12) NUMBITS(1) [],
    ],
}

/// Basic exit reasons.
pub mod reason {
    #![allow(missing_docs, reason = "named as in the manual")]
    /// With the bit of a failed entry.
    pub const MACHINE_CHECK_AT_ENTRY: u32 = 1 << 31 | 41;
    pub const EXCEPTION: u32 = 0;
    pub const INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INIT: u32 = 3;
    pub const SMI_IO: u32 = 5;
    pub const SMI: u32 = 6;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const TASK: u32 = 9;
    pub const CPUID: u32 = 10;
    pub const GETSEC: u32 = 11;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const RDPMC: u32 = 15;
    pub const RSM: u32 = 17;
    pub const VMCALL: u32 = 18;
    pub const VMCLEAR: u32 = 19;
    pub const VMXON: u32 = 27;
    pub const CONTROL_REGISTER: u32 = 28;
    pub const PORT: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const MWAIT: u32 = 36;
    pub const MONITOR: u32 = 39;
    pub const PAUSE: u32 = 40;
    pub const END_OF_INTERRUPT: u32 = 45;
    pub const EPT_VIOLATION: u32 = 48;
    pub const INVEPT: u32 = 50;
    pub const INVVPID: u32 = 53;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    pub const APIC_WRITE: u32 = 56;
    pub const ENCLS: u32 = 60;
}

const NMI: u8 = 2;
const MACHINE_CHECK: u8 = 18;

/// What is said about an exit, read when it is asked for.
pub trait Information {
    /// Exit qualification.
    fn qualification(&self) -> u64;
    /// Interruption information and error code.
    fn event(&self) -> (u32, u32);
    /// Guest-physical address.
    fn address(&self) -> u64;
    /// Where the guest goes on behind its instruction.
    fn next(&self) -> u64;
}

/// Why the guest stopped. `reason` is the whole exit reason; bit 31, a failed entry, is never a basic one.
#[inline]
pub fn decode(reason: u32, about: &impl Information) -> Exit {
    match reason {
        reason::VMCALL => Exit::Hypercall,
        reason::INTERRUPT | reason::INIT | reason::SMI_IO | reason::SMI => Exit::Interrupt,
        reason::EPT_VIOLATION => Exit::Memory(memory_fault(about.qualification(), about.address())),
        reason::INTERRUPT_WINDOW | reason::NMI_WINDOW => Exit::InterruptWindow,
        reason::CPUID => Exit::Cpuid,
        reason::END_OF_INTERRUPT => Exit::EndOfInterrupt(about.qualification() as u8),
        // Nothing else of the APIC is written without an exit before and yet wants to be looked at.
        reason::APIC_WRITE => Exit::IllegalVectorToSelf,
        reason::RDMSR => Exit::ReadMsr,
        reason::WRMSR => Exit::WriteMsr,
        reason::PORT => Exit::Port(port_access(about.qualification(), about.next())),
        reason::HLT => Exit::Halt,
        reason::PAUSE => Exit::Pause,
        reason::CONTROL_REGISTER => {
            Exit::ControlRegister(Some(control_access(about.qualification())))
        }
        reason::XSETBV => Exit::SetXcr,
        reason::INVD | reason::WBINVD => Exit::FlushCaches,
        reason::RDPMC => Exit::ReadCounter,
        reason::GETSEC
        | reason::RSM
        | reason::VMCLEAR..=reason::VMXON
        | reason::INVEPT
        | reason::INVVPID
        | reason::MWAIT
        | reason::MONITOR
        | reason::ENCLS => Exit::Undefined,
        reason::TASK => Exit::TaskSwitch,
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::EXCEPTION => exception(about.event()),
        reason::MACHINE_CHECK_AT_ENTRY => Exit::Exception {
            vector: MACHINE_CHECK,
            error: 0,
        },
        other => Exit::Failed(other.into()),
    }
}

fn exception((info, error): (u32, u32)) -> Exit {
    let info = LocalRegisterCopy::<u32, EventInfo::Register>::new(info);
    let vector = info.read(EventInfo::VECTOR) as u8;
    // Non-maskable interrupts are the machine's, and were taken behind the exit.
    if vector == NMI {
        return Exit::Interrupt;
    }
    let error = if info.is_set(EventInfo::HAS_ERROR) {
        error
    } else {
        0
    };
    Exit::Exception { vector, error }
}

fn memory_fault(qualification: u64, address: u64) -> MemoryFault {
    let about = LocalRegisterCopy::<u64, EptViolation::Register>::new(qualification);
    MemoryFault {
        address,
        write: about.is_set(EptViolation::WRITE),
        fetch: about.is_set(EptViolation::FETCH),
        present: about.read(EptViolation::RIGHTS) != 0,
        walk: about.is_set(EptViolation::LINEAR) && !about.is_set(EptViolation::FINAL),
    }
}

fn port_access(qualification: u64, next: u64) -> PortAccess {
    let about = LocalRegisterCopy::<u64, Port::Register>::new(qualification);
    PortAccess {
        port: about.read(Port::PORT) as u16,
        size: about.read(Port::SIZE) as u8 + 1,
        input: about.is_set(Port::IN),
        string: about.is_set(Port::STRING),
        repeat: about.is_set(Port::REPEAT),
        next: Some(next),
    }
}

fn control_access(qualification: u64) -> ControlAccess {
    let about = LocalRegisterCopy::<u64, ControlRegister::Register>::new(qualification);
    let register = about.read(ControlRegister::NUMBER) as u8;
    let general = about.read(ControlRegister::GENERAL) as u8;
    match about.read_as_enum(ControlRegister::KIND) {
        Some(ControlRegister::KIND::Value::Read) => ControlAccess::Read { register, general },
        Some(ControlRegister::KIND::Value::Clts) => ControlAccess::Clts,
        Some(ControlRegister::KIND::Value::Lmsw) => {
            ControlAccess::Lmsw(about.read(ControlRegister::LMSW_SOURCE) as u16)
        }
        _ => ControlAccess::Write { register, general },
    }
}

/// Whether the exit came from an IRET that had already opened for non-maskable interrupts and will run again.
pub fn nmi_was_unblocked(reason: u32, about: &impl Information) -> bool {
    const DOUBLE_FAULT: u32 = 8;
    match reason {
        reason::EXCEPTION => {
            let info = LocalRegisterCopy::<u32, EventInfo::Register>::new(about.event().0);
            info.is_set(EventInfo::NMI_UNBLOCKED) && info.read(EventInfo::VECTOR) != DOUBLE_FAULT
        }
        reason::EPT_VIOLATION => {
            LocalRegisterCopy::<u64, EptViolation::Register>::new(about.qualification())
                .is_set(EptViolation::NMI_UNBLOCKED)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorded {
        qualification: u64,
        event: (u32, u32),
        address: u64,
        next: u64,
    }

    impl Information for Recorded {
        fn qualification(&self) -> u64 {
            self.qualification
        }
        fn event(&self) -> (u32, u32) {
            self.event
        }
        fn address(&self) -> u64 {
            self.address
        }
        fn next(&self) -> u64 {
            self.next
        }
    }

    fn with(reason: u32, qualification: u64) -> Exit {
        let about = Recorded {
            qualification,
            address: 0xfee0_0300,
            next: 0x1002,
            ..Recorded::default()
        };
        decode(reason, &about)
    }

    #[test]
    fn a_port_access_has_its_width_direction_and_place() {
        let access = PortAccess {
            port: 0x3f8,
            size: 1,
            input: false,
            string: false,
            repeat: false,
            next: Some(0x1002),
        };
        assert_eq!(with(30, 0x03f8_0000), Exit::Port(access));
        let read = PortAccess {
            port: 0xcfc,
            size: 4,
            input: true,
            ..access
        };
        assert_eq!(with(30, 0x0cfc_000b), Exit::Port(read));
        let string = PortAccess {
            port: 0x1f0,
            size: 2,
            input: true,
            string: true,
            repeat: true,
            ..access
        };
        assert_eq!(with(30, 0x01f0_0039), Exit::Port(string));
    }

    #[test]
    fn control_register_accesses_name_both_registers() {
        let control = |qualification| match with(28, qualification) {
            Exit::ControlRegister(Some(access)) => access,
            other => panic!("{other:?}"),
        };
        let write = |register, general| ControlAccess::Write { register, general };
        assert_eq!(control(0x000), write(0, 0)); // MOV CR0, RAX
        assert_eq!(control(0xb04), write(4, 11)); // MOV CR4, R11
        assert_eq!(control(0x208), write(8, 2)); // MOV CR8, RDX
        let read = ControlAccess::Read {
            register: 8,
            general: 1,
        };
        assert_eq!(control(0x118), read);
        assert_eq!(control(0x20), ControlAccess::Clts);
        assert_eq!(control(0x0001_0030), ControlAccess::Lmsw(1));
        // With the source in memory.
        assert_eq!(control(0xfff1_0070), ControlAccess::Lmsw(0xfff1));
    }

    #[test]
    fn faults_of_the_second_level_tell_what_was_tried() {
        let fault = |qualification| match with(48, qualification) {
            Exit::Memory(fault) => fault,
            other => panic!("{other:?}"),
        };
        // A write to a page that is not mapped.
        let write = fault(0x182);
        assert!(write.write && !write.fetch && !write.present && !write.walk);
        assert_eq!(write.address, 0xfee0_0300);
        // A write to a page that can only be read.
        assert!(fault(0x18a).present);
        // A fetch.
        assert!(fault(0x184).fetch);
        // The guest's own table is not there.
        assert!(fault(0x081).walk);
        assert!(!fault(0x181).walk);
        // Loading the pointers of PAE paging: no linear address at all.
        assert!(!fault(0x001).walk);
    }

    #[test]
    fn exceptions_are_named_and_non_maskable_interrupts_are_the_machines() {
        let with = |info, error| {
            let about = Recorded {
                event: (info, error),
                ..Recorded::default()
            };
            decode(0, &about)
        };
        let exception = |vector, error| Exit::Exception { vector, error };
        assert_eq!(with(0x8000_0301, 0), exception(1, 0));
        assert_eq!(with(0x8000_0b11, 0), exception(17, 0));
        assert_eq!(with(0x8000_0202, 0), Exit::Interrupt);
    }

    #[test]
    fn an_iret_that_runs_again_blocks_again() {
        let about = |qualification, info| Recorded {
            qualification,
            event: (info, 0),
            ..Recorded::default()
        };
        assert!(nmi_was_unblocked(48, &about(0x1182, 0)));
        assert!(!nmi_was_unblocked(48, &about(0x182, 0)));
        assert!(nmi_was_unblocked(0, &about(0, 0x8000_1b0e)));
        assert!(!nmi_was_unblocked(0, &about(0, 0x8000_1b08)));
        assert!(!nmi_was_unblocked(10, &about(0x1000, 0x8000_1b0e)));
    }

    #[test]
    fn a_failed_entry_and_unknown_reasons_keep_their_number() {
        assert_eq!(with(0x8000_0021, 0), Exit::Failed(0x8000_0021));
        assert_eq!(with(49, 0), Exit::Failed(49));
        assert_eq!(with(2, 0), Exit::Shutdown);
        assert_eq!(with(0x8000_0002, 0), Exit::Failed(0x8000_0002));
        assert_eq!(with(24, 0), Exit::Undefined);
    }
}
