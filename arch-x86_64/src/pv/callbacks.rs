//! Where a PV guest's kernel wants to be entered: trap table, callbacks (`callback.h`), NMI handler (`nmi.h`).

use xenolith_abi::errno::Errno;
use xenolith_core::guest::Caller;
use xenolith_hal::GuestVirt;

use super::{
    hypercall::is_canonical,
    vcpu::{Callback, PvVcpu, Trap},
};
use crate::X86_64;

type Result<T = i64> = core::result::Result<T, Errno>;

fn checked(address: u64) -> Result<u64> {
    match is_canonical(address) {
        true => Ok(address),
        false => Err(Errno::EINVAL),
    }
}

/// `set_trap_table`: entries (vector, flags, selector, address) up to one without an address. None at all: every handler goes.
pub fn set_trap_table(caller: Caller<'_, X86_64>, pv: &PvVcpu, table: GuestVirt) -> Result {
    const ENTRY: u64 = 16;
    if table.0 == 0 {
        for trap in pv.traps.iter() {
            trap.set(Trap::default());
        }
        return Ok(0);
    }
    let mut at = table;
    // As many entries as there are vectors, and one that ends the table; a longer one says something twice.
    for _ in 0..=256 {
        let mut entry = [0u8; ENTRY as usize];
        caller.read_bytes(at, &mut entry)?;
        let [vector, flags, low, high, _, _, _, _, address @ ..] = entry;
        let address = u64::from_le_bytes(address);
        if address == 0 {
            break;
        }
        let trap = Trap {
            address: checked(address)?,
            selector: u16::from_le_bytes([low, high]) | 3,
            flags,
        };
        pv.traps[usize::from(vector)].set(trap);
        at = at.plus(ENTRY);
    }
    Ok(0)
}

/// `set_callbacks`, the form before `callback_op`.
pub fn set_callbacks(pv: &PvVcpu, event: u64, failsafe: u64, syscall: u64) -> Result {
    for (kind, address) in [(0, event), (1, failsafe), (2, syscall)] {
        // This form never looked at them; what is no address ends the guest when it is used.
        set(pv, kind, address, 0)?;
    }
    Ok(0)
}

/// `callback_op`.
pub fn callback_op(caller: Caller<'_, X86_64>, pv: &PvVcpu, cmd: u32, arg: GuestVirt) -> Result {
    const REGISTER: u32 = 0;
    const UNREGISTER: u32 = 1;
    match cmd {
        REGISTER => {
            let mut what = [0u8; 16];
            caller.read_bytes(arg, &mut what)?;
            let [k0, k1, f0, f1, _, _, _, _, address @ ..] = what;
            let kind = u16::from_le_bytes([k0, k1]);
            let flags = u16::from_le_bytes([f0, f1]);
            register(pv, kind, u64::from_le_bytes(address), flags)
        }
        UNREGISTER => {
            let mut what = [0u8; 4];
            caller.read_bytes(arg, &mut what)?;
            let [k0, k1, ..] = what;
            unregister(pv, u16::from_le_bytes([k0, k1]))
        }
        _ => Err(Errno::ENOSYS),
    }
}

const EVENT: u16 = 0;
const FAILSAFE: u16 = 1;
const SYSCALL: u16 = 2;
const NMI: u16 = 4;
const SYSENTER: u16 = 5;
const SYSCALL_32: u16 = 7;

fn register(pv: &PvVcpu, kind: u16, address: u64, flags: u16) -> Result {
    set(pv, kind, checked(address)?, flags)
}

fn set(pv: &PvVcpu, kind: u16, address: u64, flags: u16) -> Result {
    const MASK_EVENTS: u16 = 1;
    let callback = Callback {
        address,
        masks_events: flags & MASK_EVENTS != 0,
    };
    match kind {
        EVENT => pv.event.set(Callback {
            masks_events: true,
            ..callback
        }),
        FAILSAFE => pv.failsafe.set(callback),
        SYSCALL => pv.syscall.set(callback),
        SYSENTER => pv.sysenter.set(callback),
        SYSCALL_32 => pv.syscall_32.set(callback),
        NMI => return register_nmi(pv, address),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(0)
}

fn unregister(pv: &PvVcpu, kind: u16) -> Result {
    match kind {
        EVENT | FAILSAFE | SYSCALL | SYSENTER | SYSCALL_32 => Err(Errno::EINVAL),
        NMI => {
            pv.nmi.set(Callback::default());
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn register_nmi(pv: &PvVcpu, address: u64) -> Result {
    pv.nmi.set(Callback {
        address,
        masks_events: false,
    });
    Ok(0)
}

/// `nmi_op`: registers or removes the NMI handler of the calling vCPU.
pub fn nmi_op(caller: Caller<'_, X86_64>, pv: &PvVcpu, cmd: u32, arg: GuestVirt) -> Result {
    const REGISTER: u32 = 0;
    const UNREGISTER: u32 = 1;
    match cmd {
        REGISTER => {
            let mut what = [0u8; 16];
            caller.read_bytes(arg, &mut what)?;
            let [address @ .., _, _, _, _, _, _, _, _] = what;
            register_nmi(pv, checked(u64::from_le_bytes(address))?)
        }
        UNREGISTER => {
            pv.nmi.set(Callback::default());
            Ok(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}
