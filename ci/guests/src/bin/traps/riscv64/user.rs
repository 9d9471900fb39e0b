//! User mode: SRET to it, ECALL back, and what it must not do.

use xenolith_guests::arch::{self, A0, Access, User, cause, fault_of, interrupt, user_code};
use xenolith_guests::buffer::Page;
use xenolith_guests::report::value;
use xenolith_guests::{ensure, expect};

use super::instructions::{HYPERVISOR, MRET};
use super::{Case, NOTHING, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("user.calls_come_back", calls),
    ("user.registers_go_there_and_back", registers),
    ("user.hypercalls_reach_the_kernel", hypercall),
    ("user.privileged_instructions", privileged),
    ("user.instructions_of_the_hypervisor", hypervisor),
    ("user.kernel_pages", kernel_pages),
    ("user.pages_of_users_and_the_kernel", users_pages),
    ("user.where_nothing_is", nothing),
    ("user.time_by_leave_of_the_kernel", time),
    ("user.a_timer_ends_a_loop", timer),
];

const INTERRUPT: u64 = 1 << 63;
/// ADDI a0, a0, 1.
const INCREMENT: u32 = 0x0015_0513;
/// LD a1, 0(a0).
const LOAD: u32 = 0x0005_3583;
/// SD a1, 0(a0).
const STORE: u32 = 0x00b5_3023;
/// JALR a0.
const CALL_A0: u32 = 0x0005_00e7;
const RDTIME: u32 = 0xc010_2573;
/// Jumps to itself.
const LOOP: u32 = 0x0000_006f;
/// The kernel may use user pages; loads may use pages for running.
const SUM: u64 = 1 << 18;

fn ended(what: &str, user: &User, cause: u64, value: u64) -> Outcome {
    let (got, at) = (user.cause, user.value);
    ensure!(
        (got, at) == (cause, value),
        "{what}: cause {got:#x} value {at:#x}, expected {cause} {value:#x}"
    );
    Ok(())
}

fn illegal(what: &str, user: &User, bits: u32) -> Outcome {
    let shows = user.value == 0 || user.value == u64::from(bits);
    ensure!(
        user.cause == cause::ILLEGAL && shows,
        "{what}: cause {:#x} value {:#x}",
        user.cause,
        user.value
    );
    Ok(())
}

fn calls() -> Outcome {
    for round in 0..100 {
        let user = user_code(&[INCREMENT, INCREMENT], round);
        ended("ecall", &user, cause::USER_CALL, 0)?;
        expect!(user.register(A0), round + 2);
    }
    Ok(())
}

fn registers() -> Outcome {
    let mut user = user_code(&[], 0);
    let page = arch::map_page(arch::CODE_SLOT, Page::take().address(), Access::User);
    arch::write32(user_page(page), 0x73);
    for (index, register) in (1u64..).zip(user.x.iter_mut()) {
        *register = index << 56 | 0x0055_aa00 | index;
    }
    user.pc = page;
    let before = user.x;
    user.run(false);
    arch::unmap_page(arch::CODE_SLOT);
    ended("ecall", &user, cause::USER_CALL, 0)?;
    expect!(user.pc, page);
    ensure!(user.x == before, "{:x?}", user.x);
    Ok(())
}

/// Where the kernel reaches a page of the user's: its own mapping may not be used without `SUM`.
fn user_page(address: u64) -> u64 {
    set_sum(true);
    address
}

fn set_sum(on: bool) {
    // SAFETY: a right of the kernel to reach user pages.
    unsafe {
        if on {
            core::arch::asm!("csrs sstatus, {}", in(reg) SUM, options(nostack))
        } else {
            core::arch::asm!("csrc sstatus, {}", in(reg) SUM, options(nostack))
        }
    };
}

/// An ECALL of user code is the kernel's to serve, whatever is in its registers.
fn hypercall() -> Outcome {
    // LUI a7, 0xa000; ADDI a7, a7, 7; LI a6, 17 (xen_version); LI a0, 0.
    let code = [0x0a00_08b7, 0x0078_8893, 0x0110_0813, 0x0000_0513];
    let user = user_code(&code, 1);
    ended("ecall", &user, cause::USER_CALL, 0)?;
    expect!(user.register(A0), 0, "a result");
    expect!(user.register(17), arch::sbi::extension::XEN);
    Ok(())
}

fn privileged() -> Outcome {
    for (name, code) in [
        ("csrr sstatus", 0x1000_2573),
        ("csrw satp", 0x1805_1073),
        ("csrr sscratch", 0x1400_2573),
        ("csrr vsstatus", 0x2000_2573),
        ("csrr hstatus", 0x6000_2573),
        ("csrr mstatus", 0x3000_2573),
        ("sret", 0x1020_0073),
        ("mret", MRET),
        ("sfence.vma", 0x1200_0073),
        ("wfi", 0x1050_0073),
    ] {
        illegal(name, &user_code(&[code], 0), code)?;
    }
    Ok(())
}

fn hypervisor() -> Outcome {
    for (name, code) in HYPERVISOR {
        // QEMU 7.2 may tell of an earlier instruction.
        let user = user_code(&[code], arch::image().start);
        expect!(user.cause, cause::ILLEGAL, "{name}");
    }
    Ok(())
}

fn kernel_pages() -> Outcome {
    let at = arch::image().start;
    let user = user_code(&[LOAD], at);
    ended("load", &user, cause::LOAD_PAGE, at)?;
    let user = user_code(&[STORE], at);
    ended("store", &user, cause::STORE_PAGE, at)?;
    let user = user_code(&[CALL_A0], at);
    ended("call", &user, cause::FETCH_PAGE, at)?;
    let device = arch::device_address();
    let user = user_code(&[LOAD], device);
    ended("load of a device", &user, cause::LOAD_PAGE, device)
}

fn users_pages() -> Outcome {
    let page = Page::take();
    page.write::<u64>(0, 0x1234);
    let at = arch::map_page(0, page.address(), Access::User);
    let read = |at| {
        let mut got = 0;
        let fault = fault_of(|| got = arch::read64(at));
        (fault.map(|fault| fault.cause), got)
    };
    set_sum(false);
    let without = read(at);
    set_sum(true);
    let with = read(at);
    set_sum(false);
    arch::unmap_page(0);
    expect!(without.0, Some(cause::LOAD_PAGE), "without SUM");
    expect!(with, (None, 0x1234), "with SUM");
    Ok(())
}

fn nothing() -> Outcome {
    let at = arch::map_page(0, NOTHING, Access::User) + 0x40;
    let load = user_code(&[LOAD], at);
    let store = user_code(&[STORE], at);
    let call = user_code(&[CALL_A0], at);
    arch::unmap_page(0);
    ended("load", &load, cause::LOAD_ACCESS, at)?;
    ended("store", &store, cause::STORE_ACCESS, at)?;
    ended("call", &call, cause::FETCH_ACCESS, at)
}

fn time() -> Outcome {
    let allow = |mask: u64| {
        let before: u64;
        // SAFETY: which counters user mode may read.
        unsafe {
            core::arch::asm!("csrrw {}, scounteren, {}", out(reg) before, in(reg) mask, options(nostack))
        };
        before
    };
    let before = allow(0);
    let without = user_code(&[RDTIME], 0);
    allow(2);
    let with = user_code(&[RDTIME], 0);
    allow(before);
    // OpenSBI emulates it in both cases.
    value("user.time_without_leave_cause", without.cause as i64);
    ended("with leave", &with, cause::USER_CALL, 0)?;
    let read = with.register(A0);
    ensure!(
        read != 0 && read <= arch::now(),
        "{read} and then {}",
        arch::now()
    );
    Ok(())
}

fn timer() -> Outcome {
    arch::on_timer(|_| arch::timer_off());
    arch::enable(interrupt::TIMER);
    for _ in 0..10 {
        arch::timer_at(arch::now() + arch::ticks_per_second() / 1000);
        let user = arch::user_code_until(&[LOOP], 7, true);
        arch::timer_off();
        expect!(user.cause, INTERRUPT | u64::from(interrupt::TIMER));
        expect!(user.register(A0), 7);
    }
    Ok(())
}
