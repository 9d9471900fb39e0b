//! A tiny guest runtime.
#![no_std]
