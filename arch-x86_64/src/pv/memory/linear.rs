//! Linear page tables: an entry that leads to a table of its own level, so that the tables themselves can be read at addresses.
//!
//! What keeps them safe: such an entry never allows writing, so nothing below it does. The table it leads to was checked and
//! stays so while the entry stands. Other tables may be reached one deep: a table that has such entries is not reached by
//! any, so no chain of them is ever undone in one go and no circle of tables holds itself. An entry that leads to its own
//! table holds nothing, since it is gone when the table is.

use xenolith_core::{DomId, Errno, memory::FrameRecord};
use xenolith_hal::{Hal, Mfn};

use super::{Level, Machine, PageTables, check::Halt, entry};

impl<H: Hal, M: Machine<H>> PageTables<'_, H, M> {
    /// Takes what a linear entry holds, if it may be one.
    pub(super) fn take_linear(
        self,
        new: u64,
        level: Level,
        (record, mfn): (&FrameRecord, Mfn),
        (target, target_mfn): (&FrameRecord, Mfn),
        owner: DomId,
    ) -> Result<(), Halt> {
        let no = Err(Halt::failed(Errno::EINVAL));
        if new & entry::WRITABLE != 0 || !Self::is_of_type(target, level.frame_type()) {
            return no;
        }
        if target_mfn == mfn {
            return Ok(());
        }
        let Some(found) = target.get_table(owner) else {
            return no;
        };
        if found == level.frame_type() && record.begin_linear_entry() {
            if target.begin_linear_use() {
                return Ok(());
            }
            record.end_linear_entry();
        }
        // The last to let go of it undoes it, and that takes longer than it may here.
        match self.drop_table(target, target_mfn) {
            Ok(()) => no,
            Err(_) => Err(Halt {
                stop: super::Stop::Failed(Errno::EINVAL),
                held: true,
            }),
        }
    }
}
