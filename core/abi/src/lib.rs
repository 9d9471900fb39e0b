//! The Xen public ABI as plain data.
#![no_std]
#![forbid(unsafe_code)]
pub mod errno {
    //! placeholder until the ABI crate lands
    /// Error numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u16)]
    #[allow(missing_docs)]
    pub enum Errno {
        EPERM = 1,
        EFAULT = 14,
        EINVAL = 22,
        ENOSYS = 38,
    }
    impl Errno {
        /// As a hypercall's result.
        pub const fn negative(self) -> i64 {
            -(self as i64)
        }
    }
}
