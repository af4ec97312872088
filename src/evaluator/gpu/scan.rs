//! A look at a shader's text before anything parses it: how deep it nests, counted on tokens.
//!
//! Parsers, validators and drivers recurse, and 80 KB of `x + x + ..` are enough to end a process. Invariant: what passes here nests no
//! deeper than the parser's stack allows (`limits::PARSE_STACK`). Says nothing about whether the text is WGSL.

use super::limits;
use crate::error::Refusal;

/// Refuses a text that nests too deep, in brackets, operators or `else if`.
pub(super) fn scan(text: &str) -> Result<(), Refusal> {
    let mut scan = Scan::default();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => Scan::comment(bytes, at)?,
            byte if is_word(byte) => {
                let end = bytes[at..].iter().position(|byte| !is_word(*byte)).map_or(bytes.len(), |len| at + len);
                scan.word(&bytes[at..end])?;
                end
            }
            byte => {
                scan.sign(byte)?;
                at + 1
            }
        };
    }
    Ok(())
}

#[derive(Default)]
struct Scan {
    /// For every open bracket the operators that lead to it: what is within nests below those.
    open: Vec<usize>,
    /// Operators that lead to this place.
    operators: usize,
    /// `<` of this statement. They open lists of templates too, in which commas end nothing.
    angles: usize,
    else_ifs: usize,
    /// The last word was `else`.
    after_else: bool,
}

impl Scan {
    fn word(&mut self, word: &[u8]) -> Result<(), Refusal> {
        if self.after_else && word == b"if" {
            self.else_ifs += 1;
            within("`else if` in one chain", self.else_ifs, limits::ELSE_IFS)?;
        } else if word == b"if" {
            self.else_ifs = 0;
        }
        self.after_else = word == b"else";
        Ok(())
    }

    fn sign(&mut self, sign: u8) -> Result<(), Refusal> {
        match sign {
            b'(' | b'[' | b'{' => {
                if sign == b'{' {
                    (self.operators, self.angles) = (0, 0);
                }
                self.open.push(self.operators);
                within("depth of brackets", self.open.len(), limits::NESTING)?;
            }
            b')' | b']' => self.operators = self.open.pop().unwrap_or(0),
            b'}' => {
                self.open.pop();
                (self.operators, self.angles) = (0, 0);
            }
            b',' => self.operators = self.open.last().copied().unwrap_or(0),
            b';' => (self.operators, self.angles) = (self.open.last().copied().unwrap_or(0), 0),
            b'+' | b'-' | b'*' | b'/' | b'%' | b'&' | b'|' | b'^' | b'!' | b'~' | b'<' | b'>' | b'=' | b'.' => {
                self.operators += 1;
                self.angles += usize::from(sign == b'<');
                within("operators in one statement", self.operators.max(self.angles), limits::OPERATORS)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of a block comment, which may hold others.
    fn comment(bytes: &[u8], start: usize) -> Result<usize, Refusal> {
        let (mut at, mut open) = (start, 0_usize);
        while at < bytes.len() {
            match bytes.get(at..at + 2) {
                Some(b"/*") => {
                    open += 1;
                    at += 2;
                }
                Some(b"*/") => {
                    open -= 1;
                    at += 2;
                    if open == 0 {
                        return Ok(at);
                    }
                }
                _ => at += 1,
            }
            within("comments within comments", open, limits::NESTING)?;
        }
        Ok(at)
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    // All line ends of WGSL that are one byte; the others only make a comment longer here than it is, and so hide nothing that matters:
    // what follows them on the line is text that the parser sees, so they end a comment here as well.
    let text = &bytes[at..];
    let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r' | 0x0b | 0x0c | 0xc2 | 0xe2));
    end.map_or(bytes.len(), |len| at + len.max(2))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn within(rule: &str, found: usize, bound: usize) -> Result<(), Refusal> {
    if found <= bound {
        return Ok(());
    }
    Err(Refusal::TooLarge { rule: rule.to_owned(), found: found as u64, bound: bound as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_passes() {
        let text = "/* a /* nested */ comment */ @compute @workgroup_size(64) fn main() { // }}}}\n if x { } else if y { } else { a = b + c; } }";
        assert_eq!(scan(text), Ok(()));
        assert_eq!(scan(&"if a { x = x + 1; } ".repeat(5000)), Ok(()));
        assert_eq!(scan(&"} ".repeat(5000)), Ok(()), "what is no shader is the parser's to say");
        assert_eq!(scan("/* no end"), Ok(()));
        assert_eq!(scan("/"), Ok(()));
        assert_eq!(scan(&format!("const t = array<i32>({});", "-1, ".repeat(5000))), Ok(()), "a table");
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let refused = |text: String| match scan(&text) {
            Err(Refusal::TooLarge { rule, .. }) => rule,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused("x + ".repeat(2000)), "operators in one statement");
        assert_eq!(refused("-".repeat(2000)), "operators in one statement");
        assert_eq!(refused("(".repeat(100)), "depth of brackets");
        assert_eq!(refused("{ ".repeat(100)), "depth of brackets");
        assert_eq!(refused("array<".repeat(2000)), "operators in one statement");
        assert_eq!(refused("a<1, ".repeat(2000)), "operators in one statement");
        assert_eq!(refused(format!("{}{}", "x + ".repeat(900), "(y + ".repeat(200))), "depth of brackets");
        assert_eq!(refused(format!("{}({}", "x + ".repeat(900), "y + ".repeat(200))), "operators in one statement");
        assert_eq!(refused(format!("if a {{}} {}", "else if b {} ".repeat(100))), "`else if` in one chain");
        assert_eq!(refused("/*".repeat(100)), "comments within comments");
        assert_eq!(refused("a = b // \u{2028} + c \n".to_owned() + &"+ x".repeat(2000)), "operators in one statement");
    }
}
