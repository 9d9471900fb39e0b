//! `hvm_op` parameters.

use super::{SELF, call, nr};

#[allow(missing_docs)]
pub mod op {
    pub const SET_PARAM: u64 = 0;
    pub const GET_PARAM: u64 = 1;
    pub const SET_EVTCHN_UPCALL_VECTOR: u64 = 23;
}

/// Parameter numbers (public/hvm/params.h).
pub const PARAM_CALLBACK_IRQ: u32 = 0;
/// XenStore's frame.
pub const PARAM_STORE_PFN: u32 = 1;
/// XenStore's event channel.
pub const PARAM_STORE_EVTCHN: u32 = 2;
/// The PV console's frame.
pub const PARAM_CONSOLE_PFN: u32 = 17;
/// The PV console's event channel.
pub const PARAM_CONSOLE_EVTCHN: u32 = 18;

/// `xen_hvm_param`.
#[repr(C)]
pub struct Param {
    /// Whose parameter.
    pub domain: u16,
    /// Padding.
    pub pad: u16,
    /// Which.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// Reads a parameter of this domain.
pub fn get_param(index: u32) -> Result<u64, i64> {
    let mut param = Param {
        domain: SELF,
        pad: 0,
        index,
        value: 0,
    };
    match call(nr::HVM_OP, op::GET_PARAM, &mut param) {
        0 => Ok(param.value),
        errno => Err(errno),
    }
}

/// Sets a parameter of this domain.
pub fn set_param(index: u32, value: u64) -> i64 {
    call(
        nr::HVM_OP,
        op::SET_PARAM,
        &mut Param {
            domain: SELF,
            pad: 0,
            index,
            value,
        },
    )
}

/// Has events of `vcpu` come as `vector` of its local APIC.
pub fn set_upcall_vector(vcpu: u32, vector: u8) -> i64 {
    #[repr(C)]
    struct Argument(u32, u8, [u8; 3]);
    call(
        nr::HVM_OP,
        op::SET_EVTCHN_UPCALL_VECTOR,
        &mut Argument(vcpu, vector, [0; 3]),
    )
}
