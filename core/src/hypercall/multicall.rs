//! `multicall`: several hypercalls in one.
//!
//! Header: `xen.h` (`multicall_entry`). Each entry is copied in, served and gets its own result. Between entries the
//! call gives way to pending work: the guest then re-issues it for the entries that are left. When an entry itself has
//! more to do, its new arguments are put into the guest's array first, so the re-issued call goes on inside that entry.

use core::mem::offset_of;

use xenolith_abi::{Nr, multicall::MulticallEntry, narrow::Long};
use xenolith_hal::{GuestVirt, Hal};

use super::{Outcome, Rows};
use crate::{Errno, guest::Caller};

/// Serves `multicall`.
#[inline(never)]
pub fn multicall<H: Hal, A: Rows<H>>(
    caller: Caller<'_, H>,
    calls: GuestVirt,
    count: u32,
) -> Outcome {
    let mut at = calls;
    for left in (1..=count).rev() {
        if left != count && caller.hv.hal.interrupt_waits() {
            return Outcome::Again([at.0, left.into(), 0, 0, 0]);
        }
        match entry::<H, A>(caller, at) {
            Ok(Entry::Over) => at = at.plus(caller.size_of::<MulticallEntry>()),
            Ok(Entry::HasMore) => return Outcome::Again([at.0, left.into(), 0, 0, 0]),
            Err(errno) => return errno.into(),
        }
    }
    Outcome::Done(0)
}

enum Entry {
    Over,
    HasMore,
}

fn entry<H: Hal, A: Rows<H>>(caller: Caller<'_, H>, at: GuestVirt) -> Result<Entry, Errno> {
    // Copied to where it stays.
    let mut entry = MulticallEntry::default();
    caller.read_into(at, &mut entry)?;
    let [a, b, c, d, e, _] = entry.args;
    let outcome = if entry.op == Nr::Multicall.number() {
        // One level only, so that the depth of the stack is bounded.
        Errno::EINVAL.into()
    } else {
        A::serve(caller, entry.op, [a, b, c, d, e])
    };
    match outcome {
        Outcome::Done(result) => {
            let result_at = caller.offset_in::<MulticallEntry>(offset_of!(MulticallEntry, result));
            caller.write(at.plus(result_at), &Long(result.cast_unsigned()))?;
            Ok(Entry::Over)
        }
        Outcome::Again(args) => {
            for (place, arg) in entry.args.iter_mut().zip(args) {
                *place = arg;
            }
            caller.write(at, &entry)?;
            Ok(Entry::HasMore)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::{NoRows, rig::*};
    use xenolith_hal::CpuId;
    use xenolith_sim::Sim;

    const SIZE: u64 = size_of::<MulticallEntry>() as u64;

    fn call(op: u64, args: [u64; 6]) -> MulticallEntry {
        MulticallEntry {
            op,
            result: 0xdead,
            args,
        }
    }

    fn version() -> MulticallEntry {
        call(17, [0; 6])
    }

    fn results<const N: usize>(rig: &Rig) -> [i64; N] {
        rig.hv_read::<[MulticallEntry; N]>(1, PAGE)
            .map(|entry| entry.result as i64)
    }

    const VERSION: i64 = 0x4_0011;

    #[test]
    fn each_entry_gets_its_own_result() {
        let rig = Rig::new();
        let nested = call(13, [PAGE, 1, 0, 0, 0, 0]);
        rig.hv_write(1, PAGE, &[version(), call(99, [0; 6]), nested, version()]);
        assert_eq!(rig.call(1, Nr::Multicall, [PAGE, 4, 0, 0, 0]), Ok(0));
        assert_eq!(results::<4>(&rig), [VERSION, -38, -22, VERSION]);
        assert_eq!(rig.call(1, Nr::Multicall, [NOWHERE, 0, 0, 0, 0]), Ok(0));
    }

    #[test]
    fn it_ends_at_the_first_entry_that_cannot_be_read() {
        let rig = Rig::new();
        let last = LAST_PAGE + 4096 - SIZE;
        rig.hv_write(1, last, &version());
        assert_eq!(
            rig.call(1, Nr::Multicall, [last, u32::MAX.into(), 0, 0, 0]),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            rig.hv_read::<MulticallEntry>(1, last).result as i64,
            VERSION
        );
    }

    #[test]
    fn it_gives_way_between_entries_and_goes_on_where_it_was() {
        let rig = Rig::new();
        rig.hv_write(1, PAGE, &[version(); 3]);
        rig.hv.hal.cpu_record(CpuId(0)).interrupt_after(0);
        let first = rig.raw(1, 13, [PAGE, 3, 7, 8, 9]);
        assert_eq!(first, Outcome::Again([PAGE + SIZE, 2, 7, 8, 9]));
        assert_eq!(results::<3>(&rig), [VERSION, 0xdead, 0xdead]);
        rig.hv.hal.cpu_record(CpuId(0)).clear_interrupt();
        assert_eq!(rig.raw(1, 13, [PAGE + SIZE, 2, 7, 8, 9]), Outcome::Done(0));
        assert_eq!(results::<3>(&rig), [VERSION; 3]);
    }

    struct Counting;
    impl Rows<Sim> for Counting {
        /// Counts its first argument down to zero, one step a call.
        fn call(_: Caller<'_, Sim>, nr: u64, [left, ..]: [u64; 5]) -> Option<Outcome> {
            (nr == 48).then(|| match left {
                0 => Outcome::Done(1),
                _ => Outcome::Again([left - 1, 1, 2, 3, 4]),
            })
        }
    }

    #[test]
    fn an_entry_with_more_to_do_finds_its_new_arguments_in_the_array() {
        let rig = Rig::new();
        let vcpu = rig.vcpu(1);
        let caller = Caller {
            hv: &rig.hv,
            vcpu: &vcpu,
        };
        rig.hv_write(1, PAGE, &[call(48, [2, 0, 0, 0, 0, 66]), version()]);
        let again = Outcome::Again([PAGE, 2, 0, 0, 0]);
        for left in [1, 0] {
            assert_eq!(multicall::<_, Counting>(caller, GuestVirt(PAGE), 2), again);
            let entry = rig.hv_read::<MulticallEntry>(1, PAGE);
            assert_eq!((entry.op, entry.result), (48, 0xdead));
            assert_eq!(entry.args, [left, 1, 2, 3, 4, 66]);
        }
        assert_eq!(
            multicall::<_, Counting>(caller, GuestVirt(PAGE), 2),
            Outcome::Done(0)
        );
        assert_eq!(results::<2>(&rig), [1, VERSION]);
        assert_eq!(
            multicall::<_, NoRows>(caller, GuestVirt(PAGE), 1),
            Outcome::Done(0)
        );
        assert_eq!(results::<1>(&rig), [-38]);
    }
}
