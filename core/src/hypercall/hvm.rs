//! `hvm_op`: parameters of a translated domain.
//!
//! Headers: `hvm/hvm_op.h`, `hvm/params.h`. Which parameter exists, and who may read or set it, is Xen's rule for ARM: the
//! tools set them, the guest reads those that concern it. The other operations are for guests on x86.

use core::sync::atomic::Ordering::Relaxed;

use xenolith_abi::hvm::{
    EvtchnUpcallVector, GetMemType, GetTime, HvmOp, HvmParam, MemType, NR_PARAMS, PagetableDying,
    Param,
};
use xenolith_hal::{Gfn, GuestVirt, Hal, P2m};

use super::access::Control;
use crate::{DomId, DomainRef, Errno, Hypervisor, VcpuId, VcpuRef, guest::Caller};

/// Serves `hvm_op`.
#[inline(never)]
pub fn hvm_op<H: Hal>(caller: Caller<'_, H>, cmd: u64, arg: GuestVirt) -> Result<i64, Errno> {
    let cmd = u32::try_from(cmd).map_err(|_| Errno::ENOSYS)?;
    match HvmOp::try_from(cmd)? {
        HvmOp::SetParam => set(caller, arg),
        HvmOp::GetParam => get(caller, arg),
        // For an introspection tool; none is ever attached.
        HvmOp::SetEvtchnUpcallVector if H::GUEST_VECTORS => set_upcall_vector(caller, arg),
        HvmOp::FlushTlbs if H::HVM_CALLS && (arg.0 != 0 || caller.domain().is_pv()) => {
            Err(Errno::EINVAL)
        }
        HvmOp::PagetableDying if H::HVM_CALLS => pagetable_dying(caller, arg),
        HvmOp::GetTime if H::HVM_CALLS => get_time(caller, arg),
        // Nobody reads a trace.
        HvmOp::Xentrace if H::HVM_CALLS => caller.read::<[u8; XENTRACE_LEN]>(arg).map(|_| 0),
        HvmOp::GetMemType if H::HVM_CALLS => get_mem_type(caller, arg),
        HvmOp::Altp2m if H::HVM_CALLS => Err(Errno::EOPNOTSUPP),
        HvmOp::GuestRequestVmEvent if arg.0 == 0 => Ok(0),
        HvmOp::GuestRequestVmEvent => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

/// A domain that the caller may act for; a paravirtual one has nothing of all this.
fn translated<H: Hal>(caller: Caller<'_, H>, id: DomId) -> Result<Control<H>, Errno> {
    let target = Control::over(caller, id)?;
    match target.domain().is_pv() {
        true => Err(Errno::EINVAL),
        false => Ok(target),
    }
}

fn set<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let param: HvmParam = caller.read(arg)?;
    let target = translated(caller, param.domid)?;
    let which = known(param.index)?;
    if target.is_own() && !own_param(caller, which, param.value) {
        return Err(Errno::EPERM);
    }
    set_param(target.domain(), which, param.value);
    Ok(0)
}

/// Bytes of the record of `HVMOP_xentrace`.
const XENTRACE_LEN: usize = 32;

/// A hint that shadow page tables would need.
fn pagetable_dying<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let what: PagetableDying = caller.read(arg)?;
    translated(caller, what.domid)?;
    Ok(0)
}

fn get_time<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let now = caller.hv.hal.now().0;
    caller.write(arg, &GetTime { now })?;
    Ok(0)
}

fn get_mem_type<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let mut what: GetMemType = caller.read(arg)?;
    let target = translated(caller, what.domid)?;
    let kind = match target.domain().p2m.lookup(Gfn(what.pfn)) {
        None => MemType::MmioDm,
        Some(entry) if entry.kind.writable() => MemType::RamRw,
        Some(_) => MemType::RamRo,
    };
    what.mem_type = kind.number();
    caller.write(arg, &what)?;
    Ok(0)
}

impl<H: Hal> Hypervisor<H> {
    /// Takes the form of a domain's shared page from the code that its kernel is made of.
    pub fn latch_form(&self, domain: &DomainRef<H>, narrow: bool) {
        domain.narrow.store(narrow, Relaxed);
        self.update_wallclock(domain);
    }
}

/// A domain sets a parameter of its own: only how it is told of events, where that is for guests to say.
fn own_param<H: Hal>(caller: Caller<'_, H>, which: Param, value: u64) -> bool {
    let set =
        which == Param::CallbackIrq && caller.hv.hal.set_callback(&caller.domain().arch, value);
    if set && H::NARROW_CALLERS {
        // A kernel does this early; from here on it is known what code it is.
        caller.hv.latch_form(caller.domain(), caller.is_narrow());
    }
    set
}

fn set_upcall_vector<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    if caller.domain().is_pv() {
        return Err(Errno::EINVAL);
    }
    let what: EvtchnUpcallVector = caller.read(arg)?;
    let vcpu = u16::try_from(what.vcpu)
        .ok()
        .and_then(|id| VcpuRef::new(caller.domain(), VcpuId(id)))
        .ok_or(Errno::ENOENT)?;
    if !caller.hv.hal.set_upcall_vector(&vcpu.arch, what.vector) {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

fn get<H: Hal>(caller: Caller<'_, H>, arg: GuestVirt) -> Result<i64, Errno> {
    let mut param: HvmParam = caller.read(arg)?;
    let target = translated(caller, param.domid)?;
    let which = known(param.index)?;
    if which == Param::MonitorRingPfn && target.is_own() {
        return Err(Errno::EPERM);
    }
    param.value = get_param(target.domain(), which);
    caller.write(arg, &param)?;
    Ok(0)
}

/// The parameter, if there is such a one here. `EINVAL` for holes and for those of other architectures.
fn known(index: u32) -> Result<Param, Errno> {
    if index >= NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    match Param::try_from(index)? {
        param @ (Param::CallbackIrq
        | Param::StorePfn
        | Param::StoreEvtchn
        | Param::ConsolePfn
        | Param::ConsoleEvtchn
        | Param::MonitorRingPfn) => Ok(param),
        _ => Err(Errno::EINVAL),
    }
}

/// A parameter of a domain.
pub fn get_param<H: Hal>(domain: &DomainRef<H>, param: Param) -> u64 {
    let params = domain.params.lock();
    params.get(param.number() as usize).copied().unwrap_or(0)
}

/// Gives a domain a parameter, as the tools or the boot code do.
pub fn set_param<H: Hal>(domain: &DomainRef<H>, param: Param, value: u64) {
    if let Some(place) = domain.params.lock().get_mut(param.number() as usize) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::rig::*;
    use xenolith_abi::Nr;

    fn param(domid: DomId, index: u32, value: u64) -> HvmParam {
        HvmParam {
            domid,
            pad: 0,
            index,
            value,
        }
    }

    fn call(rig: &Rig, from: u16, cmd: u64, param: HvmParam) -> Result<u64, Errno> {
        rig.hv_write(from, PAGE, &param);
        rig.call(from, Nr::HvmOp, [cmd, PAGE, 0, 0, 0])?;
        Ok(rig.hv_read::<HvmParam>(from, PAGE).value)
    }

    #[test]
    fn tools_set_a_parameter_and_the_guest_reads_it() {
        let rig = Rig::new();
        for index in [0, 1, 2, 17, 18] {
            assert_eq!(call(&rig, 0, 0, param(DomId(1), index, 77)), Ok(77));
            assert_eq!(call(&rig, 1, 1, param(DomId::SELF, index, 0)), Ok(77));
            assert_eq!(call(&rig, 1, 1, param(DomId(1), index, 0)), Ok(77));
        }
        assert_eq!(call(&rig, 1, 1, param(DomId(1), 28, 0)), Err(Errno::EPERM));
        assert_eq!(call(&rig, 0, 1, param(DomId(1), 28, 0)), Ok(0));
    }

    #[test]
    fn a_domain_sets_none_of_its_own_and_touches_no_other() {
        let rig = Rig::new();
        assert_eq!(
            call(&rig, 1, 0, param(DomId::SELF, 1, 5)),
            Err(Errno::EPERM)
        );
        assert_eq!(
            call(&rig, 0, 0, param(DomId::SELF, 0, 5)),
            Err(Errno::EPERM)
        );
        assert_eq!(call(&rig, 1, 0, param(DomId(0), 1, 5)), Err(Errno::EPERM));
        assert_eq!(call(&rig, 1, 1, param(DomId(0), 1, 5)), Err(Errno::EPERM));
        assert_eq!(call(&rig, 1, 1, param(DomId(7), 1, 5)), Err(Errno::ESRCH));
    }

    #[test]
    fn holes_and_foreign_parameters_are_invalid() {
        let rig = Rig::new();
        for index in [3, 4, 5, 12, 19, 32, 35, 38, 39, 48, u32::MAX] {
            assert_eq!(
                call(&rig, 0, 0, param(DomId(1), index, 5)),
                Err(Errno::EINVAL)
            );
            assert_eq!(
                call(&rig, 1, 1, param(DomId::SELF, index, 5)),
                Err(Errno::EINVAL)
            );
        }
    }

    #[test]
    fn other_operations_are_not_implemented() {
        let rig = Rig::new();
        for cmd in [2, 5, 9, 10, 15, 23, 25, 26, 1 << 32, u64::MAX] {
            assert_eq!(
                rig.call(0, Nr::HvmOp, [cmd, PAGE, 0, 0, 0]),
                Err(Errno::ENOSYS)
            );
        }
        assert_eq!(rig.call(1, Nr::HvmOp, [24, 0, 0, 0, 0]), Ok(0));
        assert_eq!(
            rig.call(1, Nr::HvmOp, [24, PAGE, 0, 0, 0]),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            rig.call(1, Nr::HvmOp, [1, NOWHERE, 0, 0, 0]),
            Err(Errno::EFAULT)
        );
    }
}
