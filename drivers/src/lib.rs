//! Device drivers shared by the architectures.
#![no_std]
