//! What runs in VS-mode and VU-mode: its registers, why it stops, and what it gets.

pub mod cause;
#[cfg(target_arch = "riscv64")]
pub mod context;
pub mod decode;
#[cfg(target_arch = "riscv64")]
pub mod exit;
#[cfg(target_arch = "riscv64")]
pub mod fp;
#[cfg(target_arch = "riscv64")]
pub mod inject;
#[cfg(target_arch = "riscv64")]
pub mod interrupts;
#[cfg(target_arch = "riscv64")]
pub mod mmio;
pub mod regs;
#[cfg(target_arch = "riscv64")]
pub mod sbi;
#[cfg(target_arch = "riscv64")]
pub mod sbi_console;
#[cfg(target_arch = "riscv64")]
pub mod sbi_harts;
#[cfg(target_arch = "riscv64")]
pub mod uart;
#[cfg(target_arch = "riscv64")]
pub mod vcpu;
pub mod vuart;
