//! Tables that vCPUs hold: while a request is at work on them, as roots, and as pinned.
//!
//! When an interrupt stops the check of a table, the vCPU keeps hold of it until the guest asks again, so that the work done is
//! not lost. A guest that asks for something else instead makes the vCPU let go.

use xenolith_core::{Errno, VcpuRef, memory::FrameRecord};
use xenolith_hal::{Hal, Mfn};

use super::{AddressSpace, Level, Machine, PageTables, Rights, Stop, check::Halt, entry};

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Takes a reference and a use of a frame as a table of a level.
    pub(super) fn hold(
        self,
        record: &FrameRecord,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<(), Stop> {
        match space.wanted() {
            None => {
                let taken = self.acquire(record, mfn, level, rights);
                self.settle(taken, mfn, space)
            }
            Some(wanted) => {
                self.take_up(wanted, mfn, level, rights, space)?;
                let taken = match space.wanted() {
                    Some(_) => {
                        space.set_wanted(None);
                        self.resume(record, mfn, level, rights)
                    }
                    None => self.acquire(record, mfn, level, rights),
                };
                self.settle(taken, mfn, space)
            }
        }
    }

    /// A table is held for later: it stays so if it is the one that is asked for now.
    fn take_up(
        self,
        wanted: Mfn,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<(), Stop> {
        let Some(record) = self.hv.memory.record(wanted) else {
            space.set_wanted(None);
            return Ok(());
        };
        let fits = record.state().is_owned_by(rights.owner)
            && record.state().frame_type() == level.frame_type();
        if wanted == mfn && fits {
            return Ok(());
        }
        space.set_wanted(None);
        self.let_go(record, wanted, space);
        self.finish_leaving(space)
    }

    /// Keeps for the vCPU what is still held of a table that is not ready.
    fn settle(self, taken: Result<(), Halt>, mfn: Mfn, space: &AddressSpace) -> Result<(), Stop> {
        let Err(halt) = taken else {
            return Ok(());
        };
        match halt.stop {
            Stop::Preempted if halt.held => space.set_wanted(Some(mfn)),
            Stop::Failed(_) if halt.held => space.push_leaving(mfn),
            _ => {}
        }
        Err(halt.stop)
    }

    /// Takes what an entry holds that leads to a table, for the request of a vCPU.
    pub(super) fn hold_pointer(
        self,
        new: u64,
        level: Level,
        place: (&FrameRecord, Mfn),
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<u64, Stop> {
        let child_mfn = entry::frame(new);
        let below = level.below().ok_or(Errno::EINVAL)?;
        let child = self.hv.memory.record(child_mfn).ok_or(Errno::EINVAL)?;
        if new & entry::WRITABLE == 0 && Self::is_of_type(child, level.frame_type()) {
            let taken = self.take_linear(new, level, place, (child, child_mfn), rights.owner);
            self.settle(taken, child_mfn, space)?;
        } else {
            self.hold(child, child_mfn, below, rights, space)?;
        }
        Ok(entry::pointer(new))
    }

    /// `MMUEXT_NEW_BASEPTR`: another root for the kernel of the vCPU that runs here.
    pub fn set_kernel_root(self, vcpu: &VcpuRef<H>, root: Mfn) -> Result<(), Stop> {
        let space = self.machine.address_space(vcpu);
        let old = space.kernel();
        if old != Some(root) {
            self.hold_root(vcpu, root, space)?;
            self.kernel_uses(vcpu, root);
            space.set_kernel(Some(root));
        }
        self.machine.load_root(vcpu, root);
        if let Some(old) = old.filter(|old| *old != root) {
            self.drop_root(old, space);
        }
        Ok(())
    }

    /// The same if the root is a table that was checked, or the one that the vCPU has. False: nothing happened.
    #[inline(always)]
    pub(super) fn change_kernel_root(
        self,
        vcpu: &VcpuRef<H>,
        space: &AddressSpace,
        root: Mfn,
    ) -> bool {
        let old = space.kernel();
        if old == Some(root) {
            self.machine.load_root(vcpu, root);
            return true;
        }
        let Some(record) = self.hv.memory.record(root) else {
            return false;
        };
        // A check that goes on later holds another table: the slow way takes care of it.
        if space.wanted().is_some() || !record.get_root_table(vcpu.domain().id()) {
            return false;
        }
        self.kernel_uses(vcpu, root);
        space.set_kernel(Some(root));
        self.machine.load_root(vcpu, root);
        if let Some(old) = old {
            self.drop_root(old, space);
        }
        true
    }

    /// `MMUEXT_NEW_USER_BASEPTR`: another root for the user, or none.
    pub fn set_user_root(self, vcpu: &VcpuRef<H>, root: Option<Mfn>) -> Result<(), Stop> {
        let space = self.machine.address_space(vcpu);
        let old = space.user();
        if old == root {
            return Ok(());
        }
        if let Some(root) = root {
            self.hold_root(vcpu, root, space)?;
            self.user_uses(vcpu, root);
        }
        space.set_user(root);
        if let Some(old) = old {
            self.drop_root(old, space);
        }
        Ok(())
    }

    /// Gives a vCPU that does not run its first roots (its start, `VCPUOP_initialise`). On [`Stop::Preempted`] it is called
    /// again with the same `space` for the call's leftovers, which may be the vCPU's own.
    pub fn start_with_roots(
        self,
        vcpu: &VcpuRef<H>,
        kernel: Mfn,
        user: Option<Mfn>,
        work: &AddressSpace,
    ) -> Result<(), Stop> {
        let space = self.machine.address_space(vcpu);
        self.finish_leaving(work)?;
        // What a call before had got, for what it was refused or has not come back for, is another's.
        if space.kernel() != Some(kernel) {
            self.hold_root(vcpu, kernel, work)?;
            self.kernel_uses(vcpu, kernel);
            let old = space.kernel();
            space.set_kernel(Some(kernel));
            if let Some(old) = old {
                self.drop_root(old, work);
            }
        }
        if space.user() != user {
            if let Some(user) = user {
                self.hold_root(vcpu, user, work)?;
                self.user_uses(vcpu, user);
            }
            let old = space.user();
            space.set_user(user);
            if let Some(old) = old {
                self.drop_root(old, work);
            }
        }
        Ok(())
    }

    fn hold_root(self, vcpu: &VcpuRef<H>, root: Mfn, space: &AddressSpace) -> Result<(), Stop> {
        let record = self.hv.memory.record(root).ok_or(Errno::EINVAL)?;
        let rights = self.own_rights(vcpu.domain());
        self.hold(record, root, Level::L4, &rights, space)
    }

    fn kernel_uses(self, vcpu: &VcpuRef<H>, root: Mfn) {
        if let Ok(words) = self.words(root) {
            self.machine.kernel_uses(vcpu.domain(), words);
        }
    }

    fn user_uses(self, vcpu: &VcpuRef<H>, root: Mfn) {
        if let Ok(words) = self.words(root) {
            self.machine.user_uses(vcpu.domain(), words);
        }
    }

    #[inline(always)]
    fn drop_root(self, old: Mfn, space: &AddressSpace) {
        if let Some(record) = self.hv.memory.record(old) {
            self.let_go(record, old, space);
        }
    }

    /// Pins a frame of a domain as a table.
    pub fn pin(
        self,
        mfn: Mfn,
        level: Level,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<(), Stop> {
        let record = self.hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
        self.hold(record, mfn, level, rights, space)?;
        if record.pin() {
            return Ok(());
        }
        self.let_go(record, mfn, space);
        Err(Errno::EINVAL.into())
    }

    /// Takes the pin away from a frame of a domain.
    pub fn unpin(
        self,
        mfn: Mfn,
        rights: &Rights<'_, H>,
        space: &AddressSpace,
    ) -> Result<(), Errno> {
        let frame = self.hv.get_frame(mfn, rights.owner).ok_or(Errno::EINVAL)?;
        let record = self.hv.memory.record(mfn).ok_or(Errno::EINVAL)?;
        if !record.unpin() {
            return Err(Errno::EINVAL);
        }
        self.let_go(record, mfn, space);
        drop(frame);
        Ok(())
    }

    /// Does all of `f`, however often an interrupt waits: for the building of domains.
    pub fn insist<T>(self, mut f: impl FnMut() -> Result<T, Stop>) -> Result<T, Errno> {
        loop {
            match f() {
                Ok(value) => return Ok(value),
                Err(Stop::Failed(errno)) => return Err(errno),
                // Who holds what this waits for may wait for this CPU.
                Err(Stop::Preempted) => self.hv.hal.relax(),
            }
        }
    }
}
