//! Every hypercall number, and every sub-op of each, answers a pointer that leads nowhere as Xen 4.17 does:
//! known ones try to read it (`EFAULT`), unknown ones say so.

use xenolith_guests::report::value;
use xenolith_guests::xen::{memory, nr, sched};
use xenolith_guests::{arch, console, expect};

use super::special::survey as table;
use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[("survey.numbers", numbers), ("survey.sub_ops", sub_ops)];

/// Highest number tried, and some beyond.
const NUMBERS: u64 = 64;
const BEYOND: [u64; 4] = [100, 0xffff, 0xffff_ffff, u64::MAX];
const SUB_OPS: u64 = 48;

fn probe(number: u64, sub: u64) -> i64 {
    arch::hypercall(number, [sub, arch::UNMAPPED, 1, arch::UNMAPPED, 0])
}

/// `hypfs_op`, which a build of Xen has or has not.
const HYPFS_OP: u64 = 42;

/// Calls that take no pointer first, that a guest does not come back from, that tell the machine's size, or that a build
/// may be without.
fn is_left_out(number: u64, sub: u64) -> bool {
    (number == nr::SCHED_OP && matches!(sub, sched::op::BLOCK | sched::op::SHUTDOWN))
        || (number == nr::MEMORY_OP && sub == memory::op::MAXIMUM_RAM_PAGE)
        || (number == nr::XEN_VERSION && sub == 0)
        || number == nr::MULTICALL
        || number == nr::CONSOLE_IO
        || number == HYPFS_OP
        || table::LEFT_OUT.contains(&number)
}

fn has_sub_ops(number: u64) -> bool {
    table::ROWS.iter().any(|row| row.0 == number && row.1 != 0)
}

/// Prints the table's rows as this hypervisor answers: runs of equal answers, one row each.
pub(crate) fn discover() {
    for number in 0..NUMBERS {
        let mut row: Option<(u64, i64)> = None;
        for sub in 0..=SUB_OPS {
            let answer = if is_left_out(number, sub) {
                0
            } else {
                probe(number, sub)
            };
            match row {
                Some((_, same)) if same == answer && sub < SUB_OPS => {}
                _ => {
                    if sub == SUB_OPS {
                        break;
                    }
                    console::line(format_args!("ROW ({number}, {sub}, {answer}),"));
                    row = Some((sub, answer));
                }
            }
        }
    }
}

/// What the table says of a call: the row of its number with the highest sub-op not above it.
fn wanted(number: u64, sub: u64) -> i64 {
    let mut rows = table::ROWS
        .iter()
        .filter(|row| row.0 == number && row.1 <= sub);
    rows.next_back()
        .map_or(xenolith_guests::xen::errno::ENOSYS, |row| row.2)
}

fn numbers() -> Outcome {
    value("survey.hypfs_op", probe(HYPFS_OP, 0));
    for number in (0..NUMBERS).chain(BEYOND) {
        if !is_left_out(number, 0) {
            expect!(probe(number, 0), wanted(number, 0), "number {number}");
        }
    }
    Ok(())
}

fn sub_ops() -> Outcome {
    for number in 0..NUMBERS {
        for sub in 0..SUB_OPS {
            if !is_left_out(number, sub) && has_sub_ops(number) {
                expect!(probe(number, sub), wanted(number, sub), "{number}.{sub}");
            }
        }
    }
    Ok(())
}
