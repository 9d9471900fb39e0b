//! Events as a control structure has them: to be delivered at an entry, or interrupted by an exit (Intel SDM, volume 3,
//! 25.8.3 and 25.9.3).

use tock_registers::{LocalRegisterCopy, register_bitfields};

use crate::guest::hardware::Event;

register_bitfields! {u32,
    /// Interruption information: for entries, of exits, and of what an exit interrupted.
    pub(crate) EventInfo [
        VECTOR OFFSET(0) NUMBITS(8) [],
        KIND OFFSET(8) NUMBITS(3) [
            External = 0,
            Nmi = 2,
            Exception = 3,
            Software = 4,
            PrivilegedSoftware = 5,
            SoftwareException = 6,
        ],
        HAS_ERROR OFFSET(11) NUMBITS(1) [],
        /// An IRET had opened for non-maskable interrupts (exits only).
        NMI_UNBLOCKED OFFSET(12) NUMBITS(1) [],
        VALID OFFSET(31) NUMBITS(1) [],
    ]
}

/// The interruption information for an entry, and the error code. In real mode exceptions have none.
#[must_use]
pub fn encode(event: Event, protected: bool) -> (u32, u32) {
    let valid = EventInfo::VALID::SET;
    match event {
        Event::Interrupt(vector) => {
            let info = valid + EventInfo::KIND::External + EventInfo::VECTOR.val(vector.into());
            (info.value, 0)
        }
        Event::Nmi => {
            let info = valid + EventInfo::KIND::Nmi + EventInfo::VECTOR.val(2);
            (info.value, 0)
        }
        Event::Exception { vector, error } => {
            let error = error.filter(|_| protected);
            let info = valid
                + EventInfo::KIND::Exception
                + EventInfo::VECTOR.val(vector.into())
                + EventInfo::HAS_ERROR.val(error.is_some().into());
            // More bits are never pushed, and the CPU refuses them.
            (info.value, error.unwrap_or(0) & 0xffff)
        }
    }
}

/// What an exit interrupted, from the information about it. Software interrupts and exceptions are left out: RIP still
/// points to their instruction, which runs again.
#[must_use]
pub fn decode(info: u32, error: u32) -> Option<Event> {
    let info = LocalRegisterCopy::<u32, EventInfo::Register>::new(info);
    if !info.is_set(EventInfo::VALID) {
        return None;
    }
    let vector = info.read(EventInfo::VECTOR) as u8;
    match info.read_as_enum(EventInfo::KIND) {
        Some(EventInfo::KIND::Value::External) => Some(Event::Interrupt(vector)),
        Some(EventInfo::KIND::Value::Nmi) => Some(Event::Nmi),
        Some(EventInfo::KIND::Value::Exception) => Some(Event::Exception {
            vector,
            error: info.is_set(EventInfo::HAS_ERROR).then_some(error),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_exit_interrupted_is_delivered_as_it_was() {
        let page_fault = Event::Exception {
            vector: 14,
            error: Some(6),
        };
        for event in [
            Event::Interrupt(0x30),
            Event::Nmi,
            Event::UNDEFINED,
            page_fault,
        ] {
            let (info, error) = encode(event, true);
            assert_eq!(decode(info, error), Some(event));
        }
        assert_eq!(encode(page_fault, true), (0x8000_0b0e, 6));
        assert_eq!(encode(Event::Interrupt(0xf3), true), (0x8000_00f3, 0));
    }

    #[test]
    fn a_software_interrupt_is_not_delivered_again() {
        assert_eq!(decode(0x8000_0480, 0), None);
        assert_eq!(decode(0x8000_0603, 0), None);
        assert_eq!(decode(0, 0), None);
    }

    #[test]
    fn real_mode_has_no_error_codes() {
        assert_eq!(encode(Event::PROTECTION, false), (0x8000_030d, 0));
        assert_eq!(encode(Event::PROTECTION, true), (0x8000_0b0d, 0));
    }
}
