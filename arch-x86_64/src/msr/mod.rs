//! What guests read and write through RDMSR and WRMSR (Intel SDM, volume 4; AMD64 APM, volume 2, appendix A).

/// The access is refused: the guest takes #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;
