//! Where the hypervisor enters a PV kernel, and what it keeps of a vCPU for it: trap table, callbacks, stacks, segment
//! bases, debug registers, the task-switched flag.

use core::arch::asm;
use core::sync::atomic::Ordering;

use xenolith_guests::answers::Answers;
use xenolith_guests::arch::upcall::{callback, callback_op, callbacks, register_callbacks};
use xenolith_guests::arch::{
    self, NON_CANONICAL, UNMAPPED, UPPER_HALF, exception, fault_of, hypercall, segment, selector,
    trap, vcpu_op,
};
use xenolith_guests::expect;
use xenolith_guests::xen::errno::{EFAULT, EINVAL, ENODEV, ENOSYS, EPERM};
use xenolith_guests::xen::{call_at, nr};

use crate::{Case, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("traps.a_table_takes_effect_at_once", table_takes_effect),
    ("traps.bad_tables", bad_tables),
    ("traps.an_int_reaches_its_entry", int_n),
    ("callbacks.addresses", callback_addresses),
    ("callbacks.kinds", callback_kinds),
    ("callbacks.set_callbacks", set_callbacks),
    ("callbacks.nmi", nmi),
    ("stacks.stack_switch", stack_switch),
    ("segments.bases", bases),
    ("segments.fs_base_is_used", fs_base),
    ("fpu.the_first_use_traps", first_use),
    ("debug.registers", debug_registers),
    ("debug.a_breakpoint_traps", breakpoint),
    ("assist.answers", vm_assist),
];

const LAST_CANONICAL: u64 = 0x7fff_ffff_ffff;

fn faults_as(f: impl FnOnce()) -> (u64, u64) {
    fault_of(f).map_or((u64::MAX, 0), |fault| (fault.vector, fault.error))
}

fn table_takes_effect() -> Outcome {
    let undefined = || {
        // SAFETY: traps.
        faults_as(|| unsafe { asm!("ud2") })
    };
    expect!(undefined(), (exception::UNDEFINED, 0));
    // A short table changes only its own entries; the vector in an entry is what counts.
    let entry = trap::entry_of(exception::UNDEFINED as u8);
    let other = trap::Entry {
        address: trap::entry_of(exception::DIVIDE as u8).address,
        ..entry
    };
    expect!(trap::set_trap_table(&[other, trap::Entry::default()]), 0);
    let seen = undefined();
    expect!(trap::set_trap_table(&[entry, trap::Entry::default()]), 0);
    expect!(seen.0, exception::DIVIDE, "the other entry");
    expect!(undefined(), (exception::UNDEFINED, 0), "as before");
    Ok(())
}

fn bad_tables() -> Outcome {
    let mut answers = Answers::default();
    for address in [UNMAPPED, NON_CANONICAL, UPPER_HALF, u64::MAX - 15] {
        answers.take(
            format_args!("table at {address:#x}"),
            call_at(nr::SET_TRAP_TABLE, address, 0),
            EFAULT,
        );
    }
    let plain = trap::entry_of(0x91);
    for (what, entry, wanted) in [
        (
            "hypervisor address",
            trap::Entry {
                address: UPPER_HALF,
                ..plain
            },
            0,
        ),
        (
            "no address",
            trap::Entry {
                address: NON_CANONICAL,
                ..plain
            },
            EINVAL,
        ),
        (
            "top of the lower half",
            trap::Entry {
                address: LAST_CANONICAL,
                ..plain
            },
            0,
        ),
        (
            "top of the upper half",
            trap::Entry {
                address: u64::MAX,
                ..plain
            },
            0,
        ),
        ("selector 0", trap::Entry { cs: 0, ..plain }, 0),
        (
            "selector of ring 0",
            trap::Entry {
                cs: 0xe008,
                ..plain
            },
            0,
        ),
        ("selector of a table", trap::Entry { cs: 0x0f, ..plain }, 0),
        (
            "all flags",
            trap::Entry {
                flags: 0xff,
                ..plain
            },
            0,
        ),
    ] {
        answers.take(
            what,
            trap::set_trap_table(&[entry, trap::Entry::default()]),
            wanted,
        );
    }
    // A table that ends in nothing: what came before counts.
    let last = arch::map_page(
        0,
        xenolith_guests::buffer::Page::take().address(),
        arch::Access::ReadWrite,
    ) + 4096
        - 16;
    arch::unmap_page(1);
    arch::write64(last, 0x91 | 0x700 | u64::from(selector::CODE) << 16);
    arch::write64(last + 8, plain.address);
    answers.take(
        "a table without an end",
        call_at(nr::SET_TRAP_TABLE, last, 0),
        EFAULT,
    );
    trap::set_trap_table(&[
        trap::Entry {
            vector: 0x91,
            ..trap::Entry::default()
        },
        trap::Entry::default(),
    ]);
    answers.end()
}

/// Vectors of software: with an entry that the caller may use, without one, and with one that it may not.
fn int_n() -> Outcome {
    let mut answers = Answers::default();
    let plain = trap::entry_of(0x92);
    let int_92 = || {
        // SAFETY: traps.
        faults_as(|| unsafe { asm!("int 0x92") })
    };
    // SAFETY: traps.
    let without = faults_as(|| unsafe { asm!("int 0x93") });
    // SAFETY: traps.
    answers.take(
        "int3",
        faults_as(|| unsafe { asm!("int3") }),
        (exception::BREAKPOINT, 0),
    );
    // SAFETY: traps.
    answers.take(
        "int 0x80",
        faults_as(|| unsafe { asm!("int 0x80") }),
        (0x80, 0),
    );
    // QEMU 7.2 tells another vector than that of the instruction.
    if without == (exception::PROTECTION, 0x93 * 16 + 2) {
        return answers.end();
    }
    answers.take(
        "without an entry",
        without,
        (exception::PROTECTION, 0x93 * 8 + 2),
    );
    trap::set_trap_table(&[trap::Entry { flags: 7, ..plain }, trap::Entry::default()]);
    answers.take("open to users", int_92(), (0x92, 0));
    trap::set_trap_table(&[trap::Entry { flags: 5, ..plain }, trap::Entry::default()]);
    answers.take("open to ring 1", int_92(), (0x92, 0));
    trap::set_trap_table(&[trap::Entry { flags: 4, ..plain }, trap::Entry::default()]);
    answers.take("of ring 0", int_92(), (exception::PROTECTION, 0x92 * 8 + 2));
    // SAFETY: traps.
    answers.take(
        "int 0x82",
        faults_as(|| unsafe { asm!("int 0x82") }),
        (exception::PROTECTION, 0x82 * 8 + 2),
    );
    // SAFETY: traps.
    answers.take(
        "int 14",
        faults_as(|| unsafe { asm!("int 14") }),
        (exception::PROTECTION, 14 * 8 + 2),
    );
    // SAFETY: traps.
    answers.take(
        "int 2",
        faults_as(|| unsafe { asm!("int 2") }),
        (exception::PROTECTION, 2 * 8 + 2),
    );
    answers.end()
}

fn callback_addresses() -> Outcome {
    let mut answers = Answers::default();
    let register = |kind: u16, address: u64| {
        callback_op(callback::REGISTER, kind, callback::MASK_EVENTS, address)
    };
    for kind in [
        callback::EVENT,
        callback::FAILSAFE,
        callback::SYSCALL,
        callback::SYSENTER,
    ] {
        for (address, wanted) in [
            (NON_CANONICAL, EINVAL),
            (UPPER_HALF, 0),
            (LAST_CANONICAL, 0),
            (u64::MAX, 0),
        ] {
            answers.take(
                format_args!("kind {kind} at {address:#x}"),
                register(kind, address),
                wanted,
            );
        }
    }
    register_callbacks();
    callback_op(callback::UNREGISTER, callback::SYSENTER, 0, 0);
    for address in [UNMAPPED, NON_CANONICAL, UPPER_HALF] {
        for command in [callback::REGISTER, callback::UNREGISTER] {
            answers.take(
                format_args!("command {command} at {address:#x}"),
                call_at(nr::CALLBACK_OP, command, address),
                EFAULT,
            );
        }
    }
    answers.end()
}

fn callback_kinds() -> Outcome {
    let mut answers = Answers::default();
    let somewhere = callbacks()[2];
    for (kind, wanted) in [
        (3, ENOSYS),
        (callback::SYSENTER, 0),
        (6, ENOSYS),
        (callback::SYSCALL_32, 0),
        (8, ENOSYS),
        (0xffff, ENOSYS),
    ] {
        answers.take(
            format_args!("register {kind}"),
            callback_op(callback::REGISTER, kind, 0, somewhere),
            wanted,
        );
    }
    for (kind, wanted) in [
        (callback::EVENT, EINVAL),
        (callback::FAILSAFE, EINVAL),
        (callback::SYSCALL, EINVAL),
        (3, ENOSYS),
        (callback::NMI, 0),
        (callback::SYSENTER, EINVAL),
        (6, ENOSYS),
        (callback::SYSCALL_32, EINVAL),
        (8, ENOSYS),
    ] {
        answers.take(
            format_args!("unregister {kind}"),
            callback_op(callback::UNREGISTER, kind, 0, 0),
            wanted,
        );
    }
    for command in [2, 3, 99] {
        answers.take(
            format_args!("command {command}"),
            callback_op(command, callback::EVENT, 0, somewhere),
            ENOSYS,
        );
    }
    answers.end()
}

fn set_callbacks() -> Outcome {
    let mut answers = Answers::default();
    let [event, failsafe, system_call] = callbacks();
    let set = |addresses: [u64; 3]| {
        let [a, b, c] = addresses;
        hypercall(nr::SET_CALLBACKS, [a, b, c, 0, 0])
    };
    answers.take("the runtime's", set([event, failsafe, system_call]), 0);
    for bad in [NON_CANONICAL, UPPER_HALF] {
        answers.take(
            format_args!("event at {bad:#x}"),
            set([bad, failsafe, system_call]),
            0,
        );
        answers.take(
            format_args!("failsafe at {bad:#x}"),
            set([event, bad, system_call]),
            0,
        );
        answers.take(
            format_args!("system call at {bad:#x}"),
            set([event, failsafe, bad]),
            0,
        );
    }
    register_callbacks();
    answers.end()
}

/// By `nmi_op` and by `callback_op`; the runtime's own entry for vector 2 counts.
fn nmi() -> Outcome {
    let mut answers = Answers::default();
    let nmis = || arch::this_cpu().nmis.load(Ordering::SeqCst);
    let send = || arch::vcpu_call(vcpu_op::SEND_NMI, 0, 0);
    let entry = trap::entry_of(exception::NMI as u8).address;
    let before = nmis();
    answers.take("send without a callback", send(), 0);
    answers.take("none came", nmis() - before, 0);
    let mut argument = [entry, 0];
    let register = |argument: &mut [u64; 2]| call_at(nr::NMI_OP, 0, argument.as_mut_ptr() as u64);
    answers.take("register", register(&mut argument), 0);
    answers.take("send", send(), 0);
    answers.take("one came", nmis() - before, 1);
    answers.take("unregister", call_at(nr::NMI_OP, 1, 0), 0);
    answers.take(
        "by callback_op",
        callback_op(callback::REGISTER, callback::NMI, 0, entry),
        0,
    );
    answers.take("send again", send(), 0);
    answers.take("two came", nmis() - before, 2);
    answers.take(
        "take it back",
        callback_op(callback::UNREGISTER, callback::NMI, 0, 0),
        0,
    );
    for (address, wanted) in [(NON_CANONICAL, EINVAL), (UPPER_HALF, 0)] {
        answers.take(
            format_args!("nmi_op {address:#x}"),
            register(&mut [address, 0]),
            wanted,
        );
        answers.take(
            format_args!("callback {address:#x}"),
            callback_op(callback::REGISTER, callback::NMI, 0, address),
            wanted,
        );
    }
    call_at(nr::NMI_OP, 1, 0);
    for sub in [2, 3, 99] {
        answers.take(
            format_args!("nmi_op {sub}"),
            call_at(nr::NMI_OP, sub, 0),
            ENOSYS,
        );
    }
    answers.take("at a bad pointer", call_at(nr::NMI_OP, 0, UNMAPPED), EFAULT);
    answers.take(
        "an argument to send",
        arch::vcpu_call(vcpu_op::SEND_NMI, 0, UNMAPPED),
        EINVAL,
    );
    answers.end()
}

fn stack_switch() -> Outcome {
    let mut answers = Answers::default();
    let top = arch::user_stack_top(0);
    for (what, selector, top) in [
        ("as it is", selector::DATA, top),
        ("selector 0", 0, top),
        ("selector of ring 0", 0xe010, top),
        ("selector of the local table", 0x0f, top),
        ("stack of the hypervisor", selector::DATA, UPPER_HALF),
        ("no stack", selector::DATA, NON_CANONICAL),
    ] {
        answers.take(what, arch::stack_switch(selector, top), 0);
    }
    arch::restore_user_stack(0);
    answers.end()
}

fn bases() -> Outcome {
    let mut answers = Answers::default();
    for which in [segment::FS, segment::GS_USER] {
        for (base, wanted) in [
            (0, 0),
            (UNMAPPED, 0),
            (LAST_CANONICAL, 0),
            (UPPER_HALF, 0),
            (u64::MAX, 0),
            (NON_CANONICAL, EINVAL),
        ] {
            answers.take(
                format_args!("{which} at {base:#x}"),
                arch::set_segment_base(which, base),
                wanted,
            );
        }
    }
    let own = (&raw const *arch::this_cpu()) as u64;
    answers.take(
        "no base for the kernel's gs",
        arch::set_segment_base(segment::GS_KERNEL, NON_CANONICAL),
        EINVAL,
    );
    answers.take(
        "its own",
        arch::set_segment_base(segment::GS_KERNEL, own),
        0,
    );
    for (value, wanted) in [
        (0, 0),
        (3, 0),
        (u64::from(selector::DATA), 0),
        (0x0f, 0),
        (0x10_0000, 0),
    ] {
        answers.take(
            format_args!("user's gs {value:#x}"),
            arch::set_segment_base(segment::GS_USER_SELECTOR, value),
            wanted,
        );
    }
    for which in [4, 5, 99, u64::MAX] {
        answers.take(
            format_args!("which {which:#x}"),
            arch::set_segment_base(which, 0),
            EINVAL,
        );
    }
    arch::set_segment_base(segment::GS_USER_SELECTOR, 0);
    arch::set_segment_base(segment::GS_USER, 0);
    arch::set_segment_base(segment::FS, 0);
    answers.end()
}

fn fs_base() -> Outcome {
    let page = xenolith_guests::buffer::Page::take();
    page.write::<u64>(8, 0x1234_5678_9abc);
    expect!(arch::set_segment_base(segment::FS, page.address()), 0);
    let seen: u64;
    // SAFETY: reads the page.
    unsafe { asm!("mov {}, fs:[8]", out(reg) seen, options(nostack)) };
    expect!(seen, 0x1234_5678_9abc);
    expect!(arch::set_segment_base(segment::FS, 0), 0);
    Ok(())
}

fn first_use() -> Outcome {
    let mut answers = Answers::default();
    let no_op = || {
        // SAFETY: an x87 instruction without effect.
        faults_as(|| unsafe { asm!("fnop", options(nostack)) })
    };
    const NONE: (u64, u64) = (u64::MAX, 0);
    answers.take("set", hypercall(nr::FPU_TASKSWITCH, [1, 0, 0, 0, 0]), 0);
    answers.take("CR0.TS", arch::regs::cr0() >> 3 & 1, 1);
    answers.take("first use", no_op(), (exception::NO_DEVICE, 0));
    answers.take("second use", no_op(), NONE);
    answers.take("CR0.TS after the trap", arch::regs::cr0() >> 3 & 1, 0);
    answers.take(
        "set again",
        hypercall(nr::FPU_TASKSWITCH, [2, 0, 0, 0, 0]),
        0,
    );
    answers.take("clear", hypercall(nr::FPU_TASKSWITCH, [0, 0, 0, 0, 0]), 0);
    answers.take("use after that", no_op(), NONE);
    answers.end()
}

fn debug_registers() -> Outcome {
    let mut answers = Answers::default();
    let set = |index: u64, value: u64| hypercall(nr::SET_DEBUGREG, [index, value, 0, 0, 0]);
    let get = |index: u64| hypercall(nr::GET_DEBUGREG, [index, 0, 0, 0, 0]) as u64;
    for index in 0..4 {
        answers.take(format_args!("set {index}"), set(index, 0x1000 + index), 0);
        answers.take(format_args!("get {index}"), get(index), 0x1000 + index);
        answers.take(
            format_args!("{index} of the hypervisor"),
            set(index, UPPER_HALF),
            EPERM,
        );
        answers.take(
            format_args!("{index} of nothing"),
            set(index, NON_CANONICAL),
            EPERM,
        );
        answers.take(format_args!("clear {index}"), set(index, 0), 0);
    }
    answers.take("get 6", get(6), 0xffff_0ff0);
    answers.take("get 7", get(7), 0x400);
    answers.take("set 6 to 0", set(6, 0), 0);
    answers.take("get 6 after that", get(6), 0xffff_0ff0);
    answers.take("6 of 33 bits", set(6, 1 << 32), EINVAL);
    answers.take("7 of 33 bits", set(7, 1 << 32), EINVAL);
    answers.take("7 with general detect", set(7, 1 << 13), EPERM);
    answers.take("get 7 after that", get(7), 0x400);
    answers.take("7 with a breakpoint of ports", set(7, 0x2_0001), EPERM);
    answers.take("get 7 with that", get(7), 0x400);
    answers.take("clear 7", set(7, 0), 0);
    answers.take("get 7 then", get(7), 0x400);
    // 4 and 5 are other names of 6 and 7.
    for (index, value) in [(4, 0xffff_0ff0), (5, 0x400)] {
        answers.take(format_args!("set {index}"), set(index, 0), 0);
        answers.take(format_args!("get {index}"), get(index), value);
    }
    for index in [8, 99] {
        answers.take(format_args!("set {index}"), set(index, 0), ENODEV);
        answers.take(format_args!("get {index}"), get(index) as i64, ENODEV);
    }
    answers.end()
}

fn breakpoint() -> Outcome {
    let page = xenolith_guests::buffer::Page::take();
    let set = |index: u64, value: u64| hypercall(nr::SET_DEBUGREG, [index, value, 0, 0, 0]);
    expect!(set(0, page.address()), 0);
    // Breakpoint 0: of this task, on a write of eight bytes.
    expect!(set(7, 0x9_0001), 0);
    let fault = fault_of(|| page.write::<u64>(0, 5));
    let status = hypercall(nr::GET_DEBUGREG, [6, 0, 0, 0, 0]) as u64;
    expect!(set(7, 0), 0);
    expect!(set(6, 0), 0);
    expect!(set(0, 0), 0);
    expect!(fault.map(|fault| fault.vector), Some(exception::DEBUG));
    expect!(status & 0xf, 1, "DR6");
    expect!(page.read::<u64>(0), 5, "the write was done");
    Ok(())
}

fn vm_assist() -> Outcome {
    let mut answers = Answers::default();
    let assist = |command: u64, kind: u64| hypercall(nr::VM_ASSIST, [command, kind, 0, 0, 0]);
    // 0: 4gb_segments, 1: 4gb_segments_notify, 2: writable_pagetables, 3: pae_extended_cr3, 4: architectural_iopl,
    // 5: runstate_update_flag, 32: m2p_strict.
    for (kind, wanted) in [
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 0),
        (5, 0),
        (6, EINVAL),
        (31, EINVAL),
        (32, 0),
        (33, EINVAL),
        (63, EINVAL),
        (64, EINVAL),
    ] {
        answers.take(format_args!("enable {kind}"), assist(0, kind), wanted);
        answers.take(format_args!("disable {kind}"), assist(1, kind), wanted);
    }
    for command in [2, 3, 99] {
        answers.take(
            format_args!("command {command}"),
            assist(command, 2),
            ENOSYS,
        );
    }
    answers.end()
}
