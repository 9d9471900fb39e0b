//! Starts and stops other than by `cpus`: what a running CPU does not mind, and both ways of starting.

use core::sync::atomic::{AtomicU64, Ordering};

use xenolith_guests::arch::{self, MAX_CPUS, apic, vcpu_op};
use xenolith_guests::report::Outcome;
use xenolith_guests::xen::errno::EEXIST;
use xenolith_guests::{cpus, ensure, expect};

pub(crate) const CASES: &[(&str, fn() -> Outcome)] = &[
    ("cpu.a_running_cpu_cannot_be_initialised", initialised),
    ("cpu.a_running_cpu_ignores_a_start_command", ignores_sipi),
    ("cpu.down_and_up_goes_on_behind_the_call", down_and_up),
    ("cpu.nmi_reaches_every_cpu", nmi),
    ("cpu.logical_destinations", logical),
];

static WENT_ON: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn initialised() -> Outcome {
    for index in cpus::others() {
        expect!(arch::vcpu_initialise(index), EEXIST, "vcpu {index}");
    }
    Ok(())
}

fn ignores_sipi() -> Outcome {
    for index in cpus::others() {
        apic::send_sipi(arch::apic_id_of(index), 0xf0);
        ensure!(cpus::run(index, |_| ()), "cpu {index} is gone");
    }
    Ok(())
}

fn down_and_up() -> Outcome {
    for index in cpus::others() {
        cpus::begin(index, |own| {
            arch::vcpu_call(vcpu_op::DOWN, own, 0);
            WENT_ON[own].fetch_add(1, Ordering::SeqCst);
        });
        ensure!(
            cpus::wait_for(|| arch::cpu_is_off(index)),
            "vcpu {index} is not off"
        );
        expect!(
            WENT_ON[index].load(Ordering::SeqCst),
            0,
            "vcpu {index} ran on"
        );
        expect!(arch::vcpu_call(vcpu_op::UP, index, 0), 0, "up");
        ensure!(
            cpus::wait_for(|| cpus::is_idle(index)),
            "vcpu {index} does not go on"
        );
        expect!(WENT_ON[index].load(Ordering::SeqCst), 1);
    }
    Ok(())
}

fn nmi() -> Outcome {
    const NMI: u32 = 4 << 8 | 1 << 14;
    for index in cpus::others() {
        let nmis = || arch::cpu(index).nmis.load(Ordering::SeqCst);
        let before = nmis();
        apic::command(arch::apic_id_of(index), NMI);
        ensure!(
            cpus::wait_for(|| nmis() == before + 1),
            "no NMI by the APIC on cpu {index}"
        );
        expect!(arch::vcpu_call(vcpu_op::SEND_NMI, index, 0), 0);
        ensure!(
            cpus::wait_for(|| nmis() == before + 2),
            "no NMI by the call on cpu {index}"
        );
    }
    Ok(())
}

/// Each CPU by its own logical id, as the APIC itself tells it (x2APIC) or is told (flat model).
fn logical() -> Outcome {
    const LOGICAL: u32 = 1 << 11 | 1 << 14;
    const VECTOR: u8 = 0x92;
    static LDR: AtomicU64 = AtomicU64::new(0);
    static CAME: AtomicU64 = AtomicU64::new(0);
    apic::on_vector(VECTOR, |_| {
        CAME.fetch_or(1 << arch::cpu_index(), Ordering::SeqCst);
    });
    for index in cpus::others() {
        let told = cpus::run(index, |own| {
            if !apic::is_x2apic() {
                apic::write(apic::reg::DFR, u32::MAX);
                apic::write(apic::reg::LDR, 1 << (24 + own));
            }
            LDR.store(u64::from(apic::read(apic::reg::LDR)), Ordering::SeqCst);
        });
        ensure!(told, "cpu {index} hangs");
        let logical = LDR.load(Ordering::SeqCst) as u32;
        let target = if apic::is_x2apic() {
            logical
        } else {
            logical >> 24
        };
        CAME.store(0, Ordering::SeqCst);
        apic::command(target, LOGICAL | u32::from(VECTOR));
        ensure!(
            cpus::wait_for(|| CAME.load(Ordering::SeqCst) == 1 << index),
            "logical {logical:#x} of cpu {index}: came to {:#x}",
            CAME.load(Ordering::SeqCst)
        );
    }
    Ok(())
}
