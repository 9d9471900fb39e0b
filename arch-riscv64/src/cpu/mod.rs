//! One hart: its control registers, trap vector, per-CPU data and main loop.

pub mod fault;
pub mod percpu;
pub mod regs;
pub mod run;
pub mod vectors;
pub mod world;

/// Whether the hart has hypervisor mode: looks whether one of its registers can be read (Privileged Architecture,
/// "Hypervisor Extension"). Device trees tell it too, but spelled in many ways.
pub fn has_hypervisor_extension() -> bool {
    regs::exists!("hgatp")
}

/// Lets the hypervisor's interrupts end a `wfi` and a guest's time; they stay masked otherwise.
/// Those of devices come to one CPU.
pub fn interrupts_wake(devices: bool) {
    const SOFTWARE: u64 = 1 << 1;
    const TIMER: u64 = 1 << 5;
    const EXTERNAL: u64 = 1 << 9;
    let external = if devices { EXTERNAL } else { 0 };
    regs::write!("sie", SOFTWARE | TIMER | external);
}
