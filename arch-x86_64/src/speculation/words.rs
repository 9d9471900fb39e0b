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
    /// `verw`, also `md-clear`.
    pub verw: Option<bool>,
    /// `l1d-flush`.
    pub l1d_flush: Option<bool>,
    /// `rsb`.
    pub rsb: Option<bool>,
}

/// A value that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

/// What Xen has and what says nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "pv",
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

fn boolean(value: &str) -> Option<bool> {
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
        let on = match on {
            // Only guests in hardware containers exist.
            "hvm" if by_kind => true,
            "no-hvm" if by_kind => false,
            "pv" | "no-pv" if by_kind => return Ok(()),
            _ => boolean(on).ok_or(NotUnderstood)?,
        };
        let target = match name {
            "msr-sc" => &mut self.switch,
            "ibrs" => &mut self.ibrs,
            "stibp" => &mut self.stibp,
            "ssbd" => &mut self.ssbd,
            "ibpb" => &mut self.ibpb,
            "verw" | "md-clear" => &mut self.verw,
            "l1d-flush" => &mut self.l1d_flush,
            "rsb" => &mut self.rsb,
            "hvm" => {
                (self.switch, self.verw, self.rsb) = (Some(on), Some(on), Some(on));
                return Ok(());
            }
            _ => return Err(NotUnderstood),
        };
        *target = Some(on);
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
            l1d_flush: on,
            rsb: on,
        }
    }
}
