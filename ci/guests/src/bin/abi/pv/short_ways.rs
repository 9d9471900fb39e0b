//! What the hypervisor may do a short way or a long way: whichever it takes, the answer is the same. Sends to every kind of port,
//! by three calls; returns with something waiting; lists of calls that end badly.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::tables::{self, ext};
use xenolith_guests::arch::user::{self, CODE, Iret};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UNMAPPED, UPPER_HALF, exception, hypercall, selector, trap, vcpu_op,
};
use xenolith_guests::buffer::{PAGE, Page};
use xenolith_guests::report::value;
use xenolith_guests::xen::errno::{EFAULT, ENOSYS};
use xenolith_guests::xen::multicall::{self, Entry, UNTOUCHED};
use xenolith_guests::xen::{SELF, event, nr, own_domain, shared};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("ways.a_send_by_each_call_to_each_port", sends),
    ("ways.a_send_from_a_bad_pointer", bad_sends),
    (
        "ways.an_event_that_the_kernel_tells_itself_of",
        told_by_itself,
    ),
    ("ways.a_return_while_an_event_waits", returns_with_an_event),
    ("ways.a_return_while_an_nmi_waits", returns_with_an_nmi),
    ("class.lists_that_end_badly", lists),
    ("class.lists_that_rewrite_themselves", rewritten),
    ("class.calls_that_a_list_may_not_make", not_in_lists),
    (
        "class.a_list_that_goes_to_another_address_space",
        iret_in_list,
    ),
];

const COMPAT: u64 = 16;

/// `send`: by its call, in a list, and by the call of old.
fn send(way: usize, port: u32) -> i64 {
    let mut argument = port;
    let at = (&raw mut argument) as u64;
    match way {
        0 => hypercall(nr::EVENT_CHANNEL_OP, [event::op::SEND, at, 0, 0, 0]),
        1 => {
            let mut list = [Entry::new(nr::EVENT_CHANNEL_OP, event::op::SEND, at)];
            let errno = multicall::list(&mut list);
            if errno == 0 { list[0].result } else { errno }
        }
        _ => {
            let mut old = [event::op::SEND as u32, port, 0, 0, 0, 0, 0, 0];
            hypercall(COMPAT, [old.as_mut_ptr() as u64, 0, 0, 0, 0])
        }
    }
}

fn sends() -> Outcome {
    let mut answers = Answers::default();
    shared::page();
    let own = own_domain();
    let must = |port: Result<u32, i64>| port.unwrap_or(0);
    let unbound = must(event::alloc_unbound(SELF, own));
    let other = must(event::alloc_unbound(SELF, own));
    let local = must(event::bind_interdomain(SELF, other));
    let ipi = must(event::bind_ipi(0));
    let closed = must(event::bind_ipi(0));
    event::close(closed);
    let virq = must(event::bind_virq(event::virq::DEBUG, 0));
    arch::irq_off();
    for (what, port, target) in [
        ("an unbound one", unbound, 0),
        ("one end of a pair", local, other),
        ("the other end", other, local),
        ("one of its own", ipi, ipi),
        ("a closed one", closed, 0),
        ("a virtual interrupt's", virq, 0),
        ("port 0", 0, 0),
        ("one beyond the last", 4096, 0),
        ("one far beyond", u32::MAX, 0),
    ] {
        let mut first = None;
        for way in 0..3 {
            for (state, masked, pending) in [
                ("plain", false, false),
                ("masked", true, false),
                ("pending", false, true),
                ("masked and pending", true, true),
            ] {
                if target != 0 {
                    shared::clear_pending(target);
                    shared::mask(target);
                    shared::take_upcall(0);
                    if pending {
                        event::send(port);
                        shared::take_upcall(0);
                    }
                    if !masked {
                        shared::clear_mask(target);
                    }
                }
                let errno = send(way, port);
                let raised = target != 0 && shared::upcall_pending(0);
                let was_pending = target != 0 && shared::clear_pending(target);
                shared::take_upcall(0);
                let wanted = *first.get_or_insert(errno);
                answers.take(format_args!("{what}, {state}, way {way}"), errno, wanted);
                answers.take(
                    format_args!("{what}, {state}, way {way}: pending, raised"),
                    (was_pending, raised),
                    (target != 0, target != 0 && !masked && !pending),
                );
            }
        }
        answers.take(what, first == Some(0), port == unbound || target != 0);
    }
    for port in [local, other, unbound, ipi, virq] {
        shared::mask(port);
        shared::clear_pending(port);
        answers.take("close", event::close(port), 0);
    }
    answers.end()
}

fn bad_sends() -> Outcome {
    let mut answers = Answers::default();
    let page = Page::take();
    let end = arch::map_page(20, page.address(), arch::Access::ReadWrite) + PAGE;
    arch::unmap_page(21);
    for at in super::pointers::BAD
        .into_iter()
        .chain([UNMAPPED, end - 1, end - 3])
    {
        let direct = hypercall(nr::EVENT_CHANNEL_OP, [event::op::SEND, at, 0, 0, 0]);
        let mut list = [Entry::new(nr::EVENT_CHANNEL_OP, event::op::SEND, at)];
        let errno = multicall::list(&mut list);
        answers.take(
            format_args!("at {at:#x}"),
            (direct, errno, list[0].result),
            (EFAULT, 0, EFAULT),
        );
    }
    // The operation has 32 bits.
    let ipi = event::bind_ipi(0).unwrap_or(0);
    shared::mask(ipi);
    page.write::<u32>(0, ipi);
    let errno = hypercall(
        nr::EVENT_CHANNEL_OP,
        [1 << 32 | event::op::SEND, page.address(), 0, 0, 0],
    );
    answers.take(
        "with a high bit",
        (errno, shared::clear_pending(ipi)),
        (0, true),
    );
    event::close(ipi);
    arch::unmap_page(20);
    answers.end()
}

static TAKEN: AtomicU64 = AtomicU64::new(0);

fn take(_: u32) {
    shared::take_upcall(0);
    TAKEN.fetch_add(1, Ordering::SeqCst);
}

fn taken() -> u64 {
    TAKEN.load(Ordering::SeqCst)
}

/// What a kernel of the two-level ABI does that takes a port's mask away itself: it selects the word, sets the byte and leaves once.
fn told_by_itself() -> Outcome {
    /// Of `vcpu_info`: the byte and the selector.
    const BYTE: u64 = 0;
    const SELECTOR: u64 = 8;
    let mut answers = Answers::default();
    shared::page();
    arch::irq_off();
    arch::on_event(take);
    let port = event::bind_ipi(0).unwrap_or(0);
    let info = shared::vcpu_info(0);
    let (page, offset) = (Page::at(info), info % PAGE);
    let ways: [(&str, fn()); 3] = [
        ("a hypercall", || {
            arch::hypercall(nr::XEN_VERSION, [0; 5]);
        }),
        ("an instruction that is emulated", || {
            arch::forced_cpuid(0, 0);
        }),
        ("a call of another kind", || {
            arch::hypercall(nr::SCHED_OP, [0; 5]);
        }),
    ];
    for (what, leave) in ways {
        shared::mask(port);
        shared::clear_pending(port);
        shared::take_upcall(0);
        event::send(port);
        answers.take(
            format_args!("{what}: nobody is told"),
            shared::upcall_pending(0),
            false,
        );
        let before = taken();
        shared::clear_mask(port);
        page.write::<u64>(offset + SELECTOR, 1 << (port / 64));
        page.write::<u8>(offset + BYTE, 1);
        leave();
        answers.take(
            format_args!("{what}: while they are masked"),
            taken() - before,
            0,
        );
        open_and(leave);
        arch::irq_off();
        answers.take(format_args!("{what}: once"), taken() - before, 1);
        answers.take(
            format_args!("{what}: the port"),
            shared::clear_pending(port),
            true,
        );
        // The next one comes as ever.
        arch::irq_on();
        event::send(port);
        arch::irq_off();
        answers.take(format_args!("{what}: the next"), taken() - before, 2);
        shared::clear_pending(port);
    }
    shared::mask(port);
    answers.take("close", event::close(port), 0);
    answers.end()
}

/// Takes upcalls, without a look at what waits, and leaves.
fn open_and(leave: fn()) {
    /// Of `vcpu_info`.
    const MASK: u64 = 1;
    let info = shared::vcpu_info(0);
    Page::at(info).write::<u8>(info % PAGE + MASK, 0);
    leave();
}

/// `iret` that takes the mask away: what waits comes before the first instruction of where it leads.
fn returns_with_an_event() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[0xcc]);
    shared::page();
    arch::irq_off();
    arch::on_event(take);
    let port = event::bind_ipi(0).unwrap_or(0);
    let kernel = Iret {
        rip: kernel_int3 as *const () as u64,
        cs: u64::from(selector::CODE & !3),
        rsp: Page::take().address() + 2048,
        ..Iret::USER
    };
    let places = [
        ("to a program", Iret::USER, CODE + 1),
        (
            "to a program by sysret",
            Iret {
                flags: 0x100,
                ..Iret::USER
            },
            CODE + 1,
        ),
        ("to the kernel", kernel, kernel.rip + 1),
        (
            "to the kernel by sysret",
            Iret {
                flags: 0x100,
                ..kernel
            },
            kernel.rip + 1,
        ),
        // What waits is told before the fault of the return.
        (
            "to no address",
            Iret {
                rip: NON_CANONICAL,
                ..Iret::USER
            },
            NON_CANONICAL,
        ),
        (
            "to no address by sysret",
            Iret {
                rip: NON_CANONICAL,
                flags: 0x100,
                ..Iret::USER
            },
            NON_CANONICAL,
        ),
    ];
    for (what, frame, rip) in places {
        for (state, on, masked, wanted) in [
            ("taken", true, false, 1),
            ("still masked", false, false, 0),
            ("of a masked port", true, true, 0),
        ] {
            shared::mask(port);
            shared::clear_pending(port);
            shared::take_upcall(0);
            if !masked {
                shared::clear_mask(port);
            }
            event::send(port);
            let before = taken();
            let rflags = if on { 0x202 } else { 2 };
            let fault = user::iret(&Iret { rflags, ..frame }, 0);
            arch::irq_off();
            answers.take(
                format_args!("{what}, {state}: where"),
                fault.map(|fault| fault.rip),
                Some(rip),
            );
            answers.take(
                format_args!("{what}, {state}: upcalls"),
                taken() - before,
                wanted,
            );
        }
    }
    shared::mask(port);
    shared::clear_pending(port);
    answers.take("close", event::close(port), 0);
    answers.end()
}

unsafe extern "C" {
    fn kernel_int3();
}

core::arch::global_asm!(
    r#"
    .global kernel_int3
kernel_int3:
    int3
    ud2
"#
);

/// An NMI comes at once, and only one at a time: a second waits for the return of the first.
fn returns_with_an_nmi() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[0xcc]);
    let nmis = || arch::this_cpu().nmis.load(Ordering::SeqCst);
    let mut argument = [trap::entry_of(exception::NMI as u8).address, 0];
    answers.take(
        "register",
        hypercall(nr::NMI_OP, [0, argument.as_mut_ptr() as u64, 0, 0, 0]),
        0,
    );
    for round in 0..3 {
        let before = nmis();
        answers.take("send", arch::vcpu_call(vcpu_op::SEND_NMI, 0, 0), 0);
        answers.take(format_args!("round {round}: came"), nmis() - before, 1);
        let fault = user::iret(&Iret::USER, 0);
        answers.take("a program", fault.map(|fault| fault.rip), Some(CODE + 1));
        // In a list: it comes behind the list.
        let mut list = [
            Entry::new(nr::VCPU_OP, vcpu_op::SEND_NMI, 0),
            Entry::new(nr::VCPU_OP, vcpu_op::SEND_NMI, 0),
            Entry::new(nr::XEN_VERSION, 0, 0),
        ];
        let before = nmis();
        let errno = multicall::list(&mut list);
        answers.take(
            "a list",
            (errno, list[1].result, list[2].result >> 16),
            (0, 0, 4),
        );
        answers.take(
            format_args!("round {round}: from a list"),
            nmis() - before,
            1,
        );
    }
    answers.take("unregister", hypercall(nr::NMI_OP, [1, 0, 0, 0, 0]), 0);
    answers.end()
}

/// Lists over the end of what is mapped, with results where nothing can be written, at odd places, longer than they are.
fn lists() -> Outcome {
    let mut answers = Answers::default();
    let [first, second] = [Page::take(), tables::empty_table()];
    let version = Entry::new(nr::XEN_VERSION, 0, 0);
    let start = arch::map_page(20, first.address(), arch::Access::ReadWrite);
    let size = size_of::<Entry>() as u64;
    // The number on one page, the result on the next, which is a table.
    answers.take("pin", tables::mmuext(ext::PIN_L1, second.frame(), 0), 0);
    arch::map_page(21, second.address(), arch::Access::ReadOnly);
    first.write::<u64>(PAGE - 8, nr::XEN_VERSION);
    answers.take(
        "a result in a table",
        multicall::at(start + PAGE - 8, 1),
        EFAULT,
    );
    answers.take("it stays a table of nothing", second.read::<u64>(0), 0);
    first.write(PAGE - 16, [nr::XEN_VERSION, UNTOUCHED as u64]);
    answers.take(
        "arguments in a table",
        multicall::at(start + PAGE - 16, 1),
        0,
    );
    answers.take("its result", first.read::<u64>(PAGE - 8) >> 16, 4);
    arch::unmap_page(21);
    for inside in [8, 16, 32, 56] {
        first.write(PAGE - 16, [nr::XEN_VERSION, UNTOUCHED as u64]);
        answers.take(
            format_args!("{inside} bytes of an entry"),
            multicall::at(start + PAGE - inside, 1),
            EFAULT,
        );
        answers.take("nothing was done", first.read::<i64>(PAGE - 8), UNTOUCHED);
    }
    for count in [3, 1000, 0x7fff_ffff, 0xffff_ffff] {
        for index in 0..2 {
            first.write(PAGE - size * (index + 1), version);
        }
        answers.take(
            format_args!("two of {count:#x}"),
            multicall::at(start + PAGE - 2 * size, count),
            EFAULT,
        );
        for index in 0..2 {
            let done: Entry = first.read(PAGE - size * (index + 1));
            answers.take("each was done", done.result >> 16, 4);
        }
    }
    for odd in 1..8 {
        first.write(odd, version);
        answers.take(
            format_args!("a list at {odd}"),
            multicall::at(start + odd, 1),
            0,
        );
        let done: Entry = first.read(odd);
        answers.take("its result", done.result >> 16, 4);
    }
    first.write(0, [version, version]);
    answers.take("a count of 33 bits", multicall::at(start, 1 << 32 | 1), 0);
    let done: [Entry; 2] = first.read(0);
    answers.take(
        "one was done",
        (done[0].result >> 16, done[1].result),
        (4, UNTOUCHED),
    );
    arch::unmap_page(20);
    answers.take("unpin", tables::mmuext(ext::UNPIN, second.frame(), 0), 0);
    answers.take("writable again", tables::make_writable(second), 0);
    answers.end()
}

/// A call of a list puts another list over it: what stands there when it is reached is done.
fn rewritten() -> Outcome {
    let mut answers = Answers::default();
    let [list, other] = [(); 2].map(|_| Page::take());
    let mut copy = Entry::new(nr::MMUEXT_OP, 0, 1);
    let operation = tables::Ext::new(ext::COPY_PAGE, list.frame(), other.frame());
    copy.args[0] = (&raw const operation) as u64;
    copy.args[3] = u64::from(SELF);
    list.write(0, [copy, Entry::new(60, 0, 0), Entry::new(60, 0, 0)]);
    other.write(
        0,
        [
            Entry::new(1, 2, 3),
            Entry::new(nr::XEN_VERSION, 0, 0),
            Entry::new(nr::XEN_VERSION, 1, UPPER_HALF),
        ],
    );
    answers.take("done", multicall::at(list.address(), 3), 0);
    let done: [Entry; 3] = list.read(0);
    answers.take("the first says its result", done[0].result, 0);
    answers.take("in the new list", done[0].number, 1);
    answers.take("the second is the new one", done[1].result >> 16, 4);
    answers.take("the third too", done[2].result, EFAULT);
    answers.end()
}

fn not_in_lists() -> Outcome {
    let mut answers = Answers::default();
    let mut inner = [Entry::new(nr::XEN_VERSION, 0, 0)];
    let mut outer = [
        Entry::new(nr::MULTICALL, inner.as_mut_ptr() as u64, 1),
        Entry::new(64, 0, 0),
        Entry::new(u64::MAX, 0, 0),
        Entry::new(1 << 32 | nr::XEN_VERSION, 0, 0),
        Entry::new(nr::XEN_VERSION, 0, 0),
    ];
    answers.take("a list", multicall::list(&mut outer), 0);
    let results = outer.map(|call| call.result);
    // In a list of a list nothing is done, or its calls are and no further level.
    answers.take(
        format_args!("a list in it: {}", results[0]),
        (results[0] < 0) == (inner[0].result == UNTOUCHED),
        true,
    );
    answers.take("numbers of nothing", &results[1..4], &[ENOSYS; 3][..]);
    answers.take("the last", results[4] >> 16, 4);
    // A list that is itself its only entry.
    let page = Page::take();
    page.write(0, Entry::new(nr::MULTICALL, page.address(), 1));
    answers.take("a list in itself", multicall::at(page.address(), 1), 0);
    let done: Entry = page.read(0);
    answers.take("refused", done.result < 0, true);
    answers.end()
}

/// A return to a program in the middle of a list, whose further calls would then be made in the program's address space: the list
/// ends there, or the return is no call of a list.
fn iret_in_list() -> Outcome {
    let mut answers = Answers::default();
    user::use_root();
    user::load(&[0xcc]);
    let page = Page::take();
    let window = arch::map_page(20, page.address(), arch::Access::ReadWrite);
    let list = [
        Entry::new(nr::XEN_VERSION, 0, 0),
        Entry::new(nr::IRET, 0, 0),
        Entry::new(nr::UPDATE_VA_MAPPING, window, 0),
        Entry::new(nr::XEN_VERSION, 0, 0),
    ];
    page.write(0, list);
    let frame = Iret::USER;
    let fault = arch::fault_of(|| {
        // SAFETY: leaves with a stack that holds the frame; a trap comes back to `fault_of`, whichever way is taken.
        unsafe {
            core::arch::asm!("sub rsp, 128", "and rsp, -16", "mov rcx, 9", "mov rdi, rsp", "cld", "rep movsq",
                 "mov rdi, {list}", "mov esi, 4", "mov eax, 13", "syscall", "int3",
                 list = in(reg) page.address(), in("rsi") &raw const frame, options(noreturn))
        }
    });
    answers.take(
        "it comes back by a breakpoint",
        fault.map(|fault| fault.vector),
        Some(exception::BREAKPOINT),
    );
    let done: [Entry; 4] = page.read(0);
    answers.take("what was before is done", done[0].result >> 16, 4);
    // Where the list ended the rest is as it was; where it did not, all was done for the kernel.
    let left = fault.map(|fault| fault.rip) == Some(CODE + 1);
    value("class.a_list_was_left", left.into());
    let rest = if left {
        (UNTOUCHED, UNTOUCHED)
    } else {
        (ENOSYS, 4)
    };
    let seen = match left {
        true => (done[2].result, done[3].result),
        false => (done[1].result, done[3].result >> 16),
    };
    answers.take(format_args!("the rest, if it left: {left}"), seen, rest);
    answers.take(
        "the mapping",
        arch::is_nothing_at(window),
        done[2].result == 0,
    );
    arch::unmap_page(20);
    answers.end()
}
