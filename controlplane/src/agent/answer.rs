//! What an agent says, as a number or a wish; anything else is no answer (AG-02).

/// What an agent has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// How idle its server is, 0 to 100 percent.
    Idle(u8),
    /// Its server wants no new flows, and keeps those that it has.
    Drain,
}

impl Answer {
    /// `95`, `95%`, `95` with a line's end, ` 95 %`, or `drain`.
    pub fn parse(said: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(said).ok()?.trim_ascii();
        if text.eq_ignore_ascii_case("drain") {
            return Some(Self::Drain);
        }
        let number = text.strip_suffix('%').unwrap_or(text).trim_ascii_end();
        // `parse` alone would accept a plus sign.
        let plain = number.bytes().all(|digit| digit.is_ascii_digit());
        number.parse().ok().filter(|idle| plain && *idle <= 100).map(Self::Idle)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle(idle) => write!(f, "{idle} %"),
            Self::Drain => f.write_str("drain"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_with_and_without_percent_and_line_end() {
        for said in ["95", "95%", "95\r\n", " 95 %", "95%\n", "95 % \r\n", "095"] {
            assert_eq!(Answer::parse(said.as_bytes()), Some(Answer::Idle(95)), "{said:?}");
        }
        assert_eq!(Answer::parse(b"0"), Some(Answer::Idle(0)));
        assert_eq!(Answer::parse(b"100%"), Some(Answer::Idle(100)));
    }

    #[test]
    fn anything_else_is_no_answer() {
        let wrong: [&[u8]; 14] = [
            b"",
            b"abc",
            b"250",
            b"101",
            b"-1",
            b"+95",
            b"9 5",
            b"95%%",
            b"%",
            b"0x5f",
            b"95.5",
            b"\xff95",
            b"99999999999999999999",
            b"\n\n",
        ];
        for said in wrong {
            assert_eq!(Answer::parse(said), None, "{said:?}");
        }
    }

    #[test]
    fn a_server_may_ask_for_drain() {
        for said in ["drain", "drain\n", "DRAIN\r\n", " drain "] {
            assert_eq!(Answer::parse(said.as_bytes()), Some(Answer::Drain), "{said:?}");
        }
        assert_eq!(Answer::parse(b"drained"), None);
    }
}
