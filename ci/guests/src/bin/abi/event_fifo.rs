//! Event channels in the FIFO ABI, and the way back. These cases are in order: one leads into the ABI, the last one out.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::buffer::Page;
use xenolith_guests::xen::errno::{EINVAL, ENOENT, ENOSYS, EOPNOTSUPP};
use xenolith_guests::xen::{SELF, call, event, nr, shared};
use xenolith_guests::{arch, ensure, expect};

use super::event::must;
use super::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("fifo.refused_outside_it", outside),
    ("fifo.control_block", control_block),
    ("fifo.events_are_linked_in_order", linked),
    ("fifo.masked_until_unmask", masked),
    ("fifo.priorities", priorities),
    ("fifo.a_reset_leads_back", back),
];

const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
const LINK: u32 = (1 << 17) - 1;

/// Offset of the control block in its page.
const BLOCK: u64 = 256;

static BLOCKS: AtomicU64 = AtomicU64::new(0);
static WORDS: AtomicU64 = AtomicU64::new(0);

fn init(frame: u64, offset: u64, vcpu: u32) -> (i64, u8) {
    let mut argument = [frame, offset | u64::from(vcpu) << 32, 0];
    let errno = call(nr::EVENT_CHANNEL_OP, event::op::INIT_CONTROL, &mut argument);
    (errno, argument[2] as u8)
}

fn expand(frame: u64) -> i64 {
    call(nr::EVENT_CHANNEL_OP, event::op::EXPAND_ARRAY, &mut [frame])
}

fn set_priority(port: u32, priority: u32) -> i64 {
    call(
        nr::EVENT_CHANNEL_OP,
        event::op::SET_PRIORITY,
        &mut [port, priority],
    )
}

fn word(port: u32) -> u32 {
    Page::at(WORDS.load(Ordering::SeqCst)).read(u64::from(port) * 4)
}

fn set_word(port: u32, value: u32) {
    Page::at(WORDS.load(Ordering::SeqCst)).write(u64::from(port) * 4, value);
}

fn ready() -> u32 {
    Page::at(BLOCKS.load(Ordering::SeqCst)).read(BLOCK)
}

/// Takes all queues as they are: what was ready, and no upcall waits.
fn take_ready() -> u32 {
    let was = ready();
    Page::at(BLOCKS.load(Ordering::SeqCst)).write(BLOCK, 0u32);
    shared::take_upcall(0);
    was
}

fn head(queue: u64) -> u32 {
    Page::at(BLOCKS.load(Ordering::SeqCst)).read(BLOCK + 8 + queue * 4)
}

fn outside() -> Outcome {
    let port = must("bind_ipi", event::bind_ipi(0))?;
    expect!(set_priority(port, 3), ENOSYS, "priority");
    expect!(set_priority(0x7fff_fff0, 3), EINVAL, "priority of no port");
    expect!(expand(Page::take().frame()), EOPNOTSUPP, "expand");
    expect!(event::close(port), 0);
    Ok(())
}

fn control_block() -> Outcome {
    arch::irq_off();
    let (blocks, words) = (Page::take(), Page::take());
    blocks.fill(0);
    words.fill(0);
    BLOCKS.store(blocks.address(), Ordering::SeqCst);
    WORDS.store(words.address(), Ordering::SeqCst);
    expect!(init(blocks.frame(), 0, 4000).0, ENOENT, "no such vCPU");
    expect!(init(blocks.frame(), 4, 0).0, EINVAL, "not aligned");
    expect!(init(blocks.frame(), 4032, 0).0, EINVAL, "beyond the page");
    expect!(init(1 << 40, BLOCK, 0).0, EINVAL, "no page");
    expect!(init(blocks.frame(), BLOCK, 0), (0, 17), "first");
    expect!(init(blocks.frame(), BLOCK, 0).0, EINVAL, "again");
    expect!(expand(1 << 40), EINVAL, "expand by no page");
    expect!(expand(words.frame()), 0, "expand");
    Ok(())
}

fn linked() -> Outcome {
    take_ready();
    let one = must("bind_ipi", event::bind_ipi(0))?;
    let two = must("bind_ipi", event::bind_ipi(0))?;
    expect!(event::send(two), 0);
    ensure!(shared::upcall_pending(0), "no upcall");
    expect!(event::send(one), 0);
    expect!(event::send(two), 0, "again");
    expect!(take_ready(), 1 << 7, "the queue of the default priority");
    expect!(head(7), two, "head");
    expect!(word(two), PENDING | LINKED | one, "first");
    expect!(word(one), PENDING | LINKED, "last");
    // The queue is taken: the next event begins a new one.
    set_word(two, 0);
    set_word(one, 0);
    expect!(event::send(one), 0);
    expect!(take_ready(), 1 << 7);
    expect!(head(7), one, "new head");
    set_word(one, 0);
    expect!(event::close(one), 0);
    expect!(event::close(two), 0);
    Ok(())
}

fn masked() -> Outcome {
    let port = must("bind_ipi", event::bind_ipi(0))?;
    set_word(port, MASKED);
    expect!(event::send(port), 0);
    expect!(word(port), PENDING | MASKED, "sent");
    expect!(take_ready(), 0, "ready");
    expect!(event::unmask(port), 0);
    expect!(word(port), PENDING | LINKED, "unmasked");
    expect!(take_ready(), 1 << 7, "ready");
    // A port that is closed while it is queued is not pending, and not given out.
    expect!(event::close(port), 0);
    expect!(word(port), LINKED, "closed");
    let next = must("bind_ipi", event::bind_ipi(0))?;
    ensure!(
        next != port,
        "port {port} was given out while it was queued"
    );
    set_word(port, 0);
    expect!(
        must("bind_ipi", event::bind_ipi(0))?,
        port,
        "given out later"
    );
    expect!(event::close(port), 0);
    expect!(event::close(next), 0);
    Ok(())
}

fn priorities() -> Outcome {
    take_ready();
    let port = must("bind_ipi", event::bind_ipi(0))?;
    expect!(set_priority(port, 16), EINVAL, "too low");
    expect!(set_priority(port, 0), 0, "highest");
    expect!(event::send(port), 0);
    expect!(take_ready(), 1, "highest");
    expect!(head(0), port);
    expect!(word(port) & LINK, 0, "link");
    // While it is queued it stays where it is.
    expect!(set_priority(port, 15), 0, "lowest");
    expect!(event::send(port), 0);
    expect!(take_ready(), 0, "still queued");
    set_word(port, 0);
    expect!(event::send(port), 0);
    expect!(take_ready(), 1 << 15, "lowest");
    set_word(port, 0);
    expect!(event::close(port), 0);
    Ok(())
}

fn back() -> Outcome {
    expect!(event::reset(SELF), 0);
    shared::take_upcall(0);
    let port = must("bind_ipi", event::bind_ipi(0))?;
    expect!(set_priority(port, 3), ENOSYS, "priority");
    shared::clear_pending(port);
    shared::clear_mask(port);
    expect!(event::send(port), 0);
    ensure!(shared::clear_pending(port), "the port is not pending");
    shared::take_upcall(0);
    expect!(take_ready(), 0, "the old control block");
    expect!(event::close(port), 0);
    arch::irq_on();
    Ok(())
}
