//! Physical interrupts.

use xenolith_hal::CpuId;

/// Makes a CPU leave its guest.
pub fn kick(_: CpuId) {}
