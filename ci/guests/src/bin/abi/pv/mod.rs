//! What is so for PV guests only. Frames are the machine's here, tables change by hypercalls, and traps come by a table.
#![allow(unsafe_code)] // Cases execute instructions that trap.

pub(crate) mod beside;
mod button;
mod callbacks;
mod classes;
mod compat;
mod descriptors;
mod entries;
mod frames_of_others;
mod grants;
mod memory;
mod microcode;
mod physdev;
mod platform;
mod pointers;
mod power;
mod short_ways;
pub(crate) mod survey;
mod types;
mod update;
mod user;
mod va;

use crate::Case;

pub(crate) const TABLES: &[&[Case]] = &[
    callbacks::CASES,
    update::CASES,
    va::CASES,
    types::CASES,
    descriptors::CASES,
    memory::CASES,
    grants::CASES,
    user::CASES,
    compat::CASES,
    classes::CASES,
    pointers::CASES,
    frames_of_others::CASES,
    entries::CASES,
    short_ways::CASES,
    platform::CASES,
    microcode::CASES,
    power::CASES,
    physdev::CASES,
    button::CASES,
];
