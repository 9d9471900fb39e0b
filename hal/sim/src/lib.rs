//! A simulated machine that implements the HAL, for tests on the host.
