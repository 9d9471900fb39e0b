//! What firmware left of virtualization: two registers that it can lock until the next reset.
//!
//! VM_CR: AMD APM, volume 2, section 15.30.1. IA32_FEATURE_CONTROL: Intel SDM, volume 3, section 24.7.

/// Number of AMD's register.
pub const VM_CR: u32 = 0xc001_0114;
/// Number of Intel's register.
pub const FEATURE_CONTROL: u32 = 0x3a;
/// `FEATURE_CONTROL` is what it is until reset.
pub const LOCKED: u64 = 1 << 0;
/// VMX may be switched on outside of SMX.
pub const VMX_ALLOWED: u64 = 1 << 2;
const SVM_DISABLED: u64 = 1 << 4;

/// Whether SVM can be switched on, from VM_CR; the error is for the user.
pub fn svm(vm_cr: u64) -> Result<(), &'static str> {
    match vm_cr & SVM_DISABLED {
        0 => Ok(()),
        _ => Err("SVM is switched off by firmware: look for it in the firmware's set-up"),
    }
}

/// Whether VMX can be switched on, from IA32_FEATURE_CONTROL, which may have to be written first.
pub fn vmx(feature_control: u64) -> Result<(), &'static str> {
    match feature_control & (LOCKED | VMX_ALLOWED) {
        LOCKED => Err("VMX is switched off by firmware: look for it in the firmware's set-up"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_that_switched_svm_off_is_named() {
        let locked = 1 << 3;
        assert_eq!(svm(0), Ok(()));
        assert_eq!(svm(locked), Ok(()));
        assert!(svm(locked | SVM_DISABLED).is_err_and(|line| line.contains("firmware")));
    }

    #[test]
    fn firmware_that_switched_vmx_off_is_named_and_one_that_left_it_open_is_not() {
        assert_eq!(vmx(0), Ok(()));
        assert_eq!(vmx(LOCKED | VMX_ALLOWED), Ok(()));
        assert!(vmx(LOCKED).is_err_and(|line| line.contains("firmware")));
        // Allowed inside SMX only.
        assert!(vmx(LOCKED | 1 << 1).is_err());
    }
}
