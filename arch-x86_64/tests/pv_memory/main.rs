//! Page tables of paravirtual guests on the simulated machine: what each hypercall does, the classes of published advisories
//! about them, and a random run of several CPUs and domains.

mod advisories;
mod audit;
mod entries;
mod grants;
mod preemption;
mod random;
mod requests;
mod rig;
mod threads;
