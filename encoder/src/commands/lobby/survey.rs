//! What the readiness of all encoders means for the lobby. Who is asked, and when, is in [`super::roll`].

use std::fmt;

/// What is known of all encoders together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Encoders that would accept a stream.
    pub(super) free: usize,
    /// Encoders that answered that they would not accept a stream.
    pub(super) taken: usize,
    /// Addresses that did not answer.
    pub(super) silent: usize,
    /// Addresses that were not asked yet.
    pub(super) unasked: usize,
    /// Host names that did not resolve.
    pub(super) nameless: usize,
    /// Host names that may have more addresses than are known.
    pub(super) cut_off: usize,
}

/// What that means for the lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// An encoder may be free that the lobby does not know of.
    Unknown(Unknown),
    /// Encoders are free to take publishers.
    SomeFree {
        /// The number of free encoders.
        free: usize,
    },
    /// No encoder is free.
    AllBusy {
        /// The number of encoders that answered; 0 when none are configured.
        encoders: usize,
    },
    /// The lobby itself is about to leave.
    Leaving,
}

/// What the lobby does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// No encoder has answered: more likely the lobby is cut off than all encoders.
    Everything,
    /// That many addresses were not asked yet.
    Unasked(usize),
    /// That many names did not resolve.
    Nameless(usize),
    /// That many names may have more addresses than are known.
    CutOff(usize),
}

impl Survey {
    /// An encoder that does not answer is not free, as for a kubelet. But if none answers, more likely the lobby
    /// itself is cut off from the network, and then it must not compete with free encoders.
    pub(super) fn standing(self) -> Standing {
        match self {
            Self { free: 1.., .. } => Standing::SomeFree { free: self.free },
            Self { taken: 0, .. } => Standing::Unknown(Unknown::Everything),
            // Free encoders may exist where the lobby has not looked.
            Self { nameless: 1.., .. } => Standing::Unknown(Unknown::Nameless(self.nameless)),
            Self { cut_off: 1.., .. } => Standing::Unknown(Unknown::CutOff(self.cut_off)),
            Self { unasked: 1.., .. } => Standing::Unknown(Unknown::Unasked(self.unasked)),
            Self { taken, .. } => Standing::AllBusy { encoders: taken },
        }
    }
}

impl Standing {
    /// Whether the lobby should answer publishers.
    pub(super) fn wants_lobby(self) -> bool {
        match self {
            Self::AllBusy { .. } => true,
            Self::Unknown(_) | Self::SomeFree { .. } | Self::Leaving => false,
        }
    }

    /// The number of free encoders, if known.
    pub(super) fn free(self) -> Option<usize> {
        match self {
            Self::SomeFree { free } => Some(free),
            Self::AllBusy { encoders: 1.. } => Some(0),
            Self::AllBusy { encoders: 0 } | Self::Unknown(_) | Self::Leaving => None,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(Unknown::Everything) => f.write_str("no encoder has answered"),
            Self::Unknown(Unknown::Unasked(left)) => write!(f, "{left} encoders are not asked yet"),
            Self::Unknown(Unknown::Nameless(names)) => write!(f, "{names} names of encoders do not resolve"),
            Self::Unknown(Unknown::CutOff(names)) => {
                write!(f, "{names} names may have more encoders than their answers have room for")
            }
            Self::SomeFree { free } => write!(f, "{free} free"),
            Self::AllBusy { encoders: 0 } => f.write_str("always ready: no encoders are asked"),
            Self::AllBusy { encoders } => write!(f, "all {encoders} encoders are busy"),
            Self::Leaving => f.write_str("leaving"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_when_encoders_say_that_they_are_busy_the_lobby_answers() {
        let nothing = Survey::default();
        let busy = Survey { taken: 3, ..nothing };
        assert_eq!(busy.standing(), Standing::AllBusy { encoders: 3 });
        let silent = Survey { silent: 2, ..busy };
        assert_eq!(silent.standing(), Standing::AllBusy { encoders: 3 }, "who is silent is not free");
        for (survey, why) in [
            (Survey { free: 1, ..busy }, "one is free"),
            (Survey { free: 1, nameless: 1, ..nothing }, "one is free, wherever the others are"),
            (Survey { silent: 3, ..nothing }, "it may be the lobby that is cut off"),
            (Survey { nameless: 1, ..nothing }, "nothing is known"),
            (Survey { nameless: 1, ..busy }, "free ones may be behind the other name"),
            (Survey { cut_off: 1, ..busy }, "free ones may be among those left out"),
            (Survey { unasked: 1, ..busy }, "the last one may be free"),
        ] {
            assert!(!survey.standing().wants_lobby(), "{why}: {survey:?}");
        }
        assert!(!Standing::Leaving.wants_lobby());
    }
}
