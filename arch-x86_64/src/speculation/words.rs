//! The value of `spec-ctrl=`, spelled as Xen spells it: booleans, single options with or without a value, commas between.

/// What the command line says; `None` leaves it to the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// `msr-sc`: SPEC_CTRL and PRED_CMD are switched at all, and guests have them.
    pub switch: Option<bool>,
    /// `ibrs`.
    pub ibrs: Option<bool>,
    /// `stibp`.
    pub stibp: Option<bool>,
    /// `ssbd`.
    pub ssbd: Option<bool>,
    /// `ibpb`.
    pub ibpb: Option<bool>,
    /// `verw`, also `md-clear`, for guests in hardware.
    pub verw: Option<bool>,
    /// The same for PV guests.
    pub verw_pv: Option<bool>,
    /// `l1d-flush`.
    pub l1d_flush: Option<bool>,
    /// `rsb`, for guests in hardware.
    pub rsb: Option<bool>,
    /// The same for PV guests.
    pub rsb_pv: Option<bool>,
}

/// A value that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

/// What Xen has and what says nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "bti-thunk",
    "bhb-seq",
    "bhb-entry",
    "bhi-dis-s",
    "ibpb-entry",
    "eager-fpu",
    "psfd",
    "branch-harden",
    "srb-lock",
    "unpriv-mmio",
    "gds-mit",
    "div-scrub",
    "ibpb-alt",
];

pub(super) fn boolean(value: &str) -> Option<bool> {
    match value {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

impl Words {
    /// All of one value, or one option after the other; what comes later wins. A value with anything that is not
    /// understood changes nothing.
    pub fn parse(value: &str) -> Result<Self, NotUnderstood> {
        let mut words = Self::default();
        for option in value.split(',') {
            words.option(option)?;
        }
        Ok(words)
    }

    fn option(&mut self, option: &str) -> Result<(), NotUnderstood> {
        if boolean(option) == Some(false) {
            *self = Self::all(false);
            return Ok(());
        }
        if option == "no-xen" {
            *self = Self {
                switch: self.switch,
                ..Self::all(false)
            };
            return Ok(());
        }
        let (name, on) = match (option.split_once('='), option.strip_prefix("no-")) {
            (Some((name, value)), _) => (name, value),
            (None, Some(name)) => (name, "no"),
            (None, None) => (option, "yes"),
        };
        if WITHOUT_EFFECT.contains(&name) {
            return Ok(());
        }
        let by_kind = matches!(name, "msr-sc" | "rsb" | "verw" | "md-clear");
        let (on, [hvm, pv]) = match on {
            "hvm" if by_kind => (true, [true, false]),
            "no-hvm" if by_kind => (false, [true, false]),
            "pv" if by_kind => (true, [false, true]),
            "no-pv" if by_kind => (false, [false, true]),
            _ => (boolean(on).ok_or(NotUnderstood)?, [true, true]),
        };
        let on = Some(on);
        let set = |target: &mut Option<bool>, chosen: bool| {
            if chosen {
                *target = on;
            }
        };
        match name {
            // PV guests have SPEC_CTRL wherever others do.
            "msr-sc" => set(&mut self.switch, hvm),
            "ibrs" => self.ibrs = on,
            "stibp" => self.stibp = on,
            "ssbd" => self.ssbd = on,
            "ibpb" => self.ibpb = on,
            "verw" | "md-clear" => {
                set(&mut self.verw, hvm);
                set(&mut self.verw_pv, pv);
            }
            "l1d-flush" => self.l1d_flush = on,
            "rsb" => {
                set(&mut self.rsb, hvm);
                set(&mut self.rsb_pv, pv);
            }
            "hvm" => (self.switch, self.verw, self.rsb) = (on, on, on),
            "pv" => (self.verw_pv, self.rsb_pv) = (on, on),
            _ => return Err(NotUnderstood),
        }
        Ok(())
    }

    const fn all(on: bool) -> Self {
        let on = Some(on);
        Self {
            switch: on,
            ibrs: on,
            stibp: on,
            ssbd: on,
            ibpb: on,
            verw: on,
            verw_pv: on,
            l1d_flush: on,
            rsb: on,
            rsb_pv: on,
        }
    }
}
