//! Ways between user code, kernel and hypervisor, with entry points that do the least: an upcall, a system call, a page fault.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::upcall::{callback, callback_op, callbacks};
use xenolith_guests::arch::user::{self, Iret};
use xenolith_guests::arch::{self, exception, selector, trap};
use xenolith_guests::count::instructions;
use xenolith_guests::report::{self, value};
use xenolith_guests::xen::{event, shared};

use crate::LOOPS;

/// Address of this vCPU's upcall flag.
#[unsafe(no_mangle)]
static BENCH_FLAG: AtomicU64 = AtomicU64::new(0);
/// Address of the port's word of pending bits.
#[unsafe(no_mangle)]
static BENCH_WORD: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn bench_event();
    fn bench_page_fault();
    static bench_calls: u8;
    static bench_calls_end: u8;
    static bench_faults: u8;
    static bench_faults_end: u8;
}

global_asm!(
    r#"
    // Takes the upcall, its selector and the port's signal, and goes on.
bench_event:
    mov     rcx, BENCH_FLAG
    mov     byte ptr [rcx], 0
    mov     qword ptr [rcx + 8], 0
    mov     rcx, BENCH_WORD
    mov     qword ptr [rcx], 0
    pop     rcx
    pop     r11
    push    0
    push    rcx
    push    r11
    push    rax
    mov     eax, 23
    syscall
    ud2

    // Goes on behind the load of three bytes.
bench_page_fault:
    pop     rcx
    pop     r11
    add     rsp, 8
    add     qword ptr [rsp], 3
    push    0
    push    rcx
    push    r11
    push    rax
    mov     eax, 23
    syscall
    ud2

    // User code, rdi: how often. The runtime answers system call 0 at once.
bench_calls:
    xor     eax, eax
    syscall
    dec     rdi
    jnz     bench_calls
    int3
bench_calls_end:

bench_faults:
    mov     rax, [rsi]
    dec     rdi
    jnz     bench_faults
    int3
bench_faults_end:
"#
);

pub(super) fn measure() {
    send_and_upcall();
    from_user(
        "user_system_call",
        bytes(&raw const bench_calls, &raw const bench_calls_end),
    );
    let mut table = trap::table();
    table[exception::PAGE as usize].address = bench_page_fault as *const () as u64;
    trap::set_trap_table(&table);
    // rsi is 0 in user code: nothing is there.
    from_user(
        "user_page_fault",
        bytes(&raw const bench_faults, &raw const bench_faults_end),
    );
    kernel_page_fault();
    trap::set_trap_table(&trap::table());
}

fn bytes(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: bytes of the image between two labels.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// A signal to itself, the upcall, and `iret` back behind the call.
fn send_and_upcall() {
    let Ok(port) = event::bind_ipi(0) else { return };
    shared::page();
    shared::take_upcall(0);
    BENCH_FLAG.store(shared::vcpu_info(0), Ordering::SeqCst);
    let word = shared::page().address() + arch::SHARED_PENDING + u64::from(port / 64) * 8;
    BENCH_WORD.store(word, Ordering::SeqCst);
    let register = |address: u64| {
        callback_op(
            callback::REGISTER,
            callback::EVENT,
            callback::MASK_EVENTS,
            address,
        )
    };
    shared::clear_pending(port);
    shared::clear_mask(port);
    register(bench_event as *const () as u64);
    arch::irq_on();
    super::time("send_upcall_iret", || {
        event::send(port);
    });
    arch::irq_off();
    register(callbacks()[0]);
    shared::mask(port);
    event::close(port);
}

/// Time of one turn of user code that makes `LOOPS` of them.
fn from_user(name: &str, code: &[u8]) {
    if !report::is_wanted(name) {
        return;
    }
    // The loop itself is two instructions more.
    const OF_A_TURN: u64 = 2;
    let run = |turns: u64| {
        let start = arch::now();
        let fault = user::run(code, turns);
        let ticks = arch::now() - start;
        match fault {
            Some(fault) if fault.vector == exception::BREAKPOINT => ticks,
            other => {
                value(
                    format_args!("{name}_failed"),
                    other.map_or(-1, |fault| fault.vector as i64),
                );
                0
            }
        }
    };
    run(16);
    let (once, twice) = (run(LOOPS), run(2 * LOOPS));
    let each = instructions(twice.saturating_sub(once)) / LOOPS;
    value(name, each.saturating_sub(OF_A_TURN) as i64);
    let _ = (Iret::USER, selector::CODE);
}

/// The same in the kernel: a load of nothing, the bounce, and `iret` behind it.
fn kernel_page_fault() {
    super::time("kernel_page_fault", || {
        // SAFETY: nothing is there; the handler goes on behind the load.
        unsafe { core::arch::asm!("mov rax, [rsi]", in("rsi") arch::UNMAPPED, out("rax") _) };
    });
}
