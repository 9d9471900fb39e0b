//! The traits between core and the architectures.
#![no_std]
