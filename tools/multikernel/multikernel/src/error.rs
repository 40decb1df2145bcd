// SPDX-License-Identifier: GPL-2.0

//! The error that reaches the user: what was asked, what is wrong, what to do.

use std::fmt;

/// What a public operation of this library returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that failed, in words for the person who asked for it.
///
/// Displayed as `ASKED: WRONG. ADVICE.`, on one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    asked: String,
    wrong: String,
    advice: Option<String>,
    errno: Option<i32>,
}

impl Error {
    /// `asked` reads like `cannot create instance "web"`; `wrong` like `CPU 9 does not exist`.
    pub fn new(asked: impl Into<String>, wrong: impl fmt::Display) -> Self {
        Self {
            asked: asked.into(),
            wrong: wrong.to_string(),
            advice: None,
            errno: None,
        }
    }

    /// Adds what to do: one or more sentences, without the last full stop.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds the errno that the kernel returned.
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// The errno that the kernel returned, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.asked, self.wrong)?;
        match &self.advice {
            Some(advice) => write!(f, ". {advice}."),
            None => write!(f, "."),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_all_three_parts() {
        let error = Error::new("cannot start instance \"web\"", "no image is loaded")
            .advice("Load one with 'mkctl load web'");
        assert_eq!(
            error.to_string(),
            "cannot start instance \"web\": no image is loaded. Load one with 'mkctl load web'."
        );
    }
}
