//! Paths: `address.city`, `contacts[].phone`, `labels.*`, `**.email`.

use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// The member of that (unescaped) name.
    Name(String),
    /// Every element of an array: `[]`.
    Element,
    /// A member of any one name: `*`.
    AnyName,
    /// Any number of members and elements, none included: `**`. At the end of a path, at least one.
    AnyDepth,
}

impl Segment {
    /// Where two paths match one value, the smaller rank at the first difference wins.
    pub fn rank(&self) -> u8 {
        match self {
            Segment::Name(_) | Segment::Element => 0,
            Segment::AnyName => 1,
            Segment::AnyDepth => 2,
        }
    }
}

/// A path of a policy, relative to the row.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(pub Vec<Segment>);

impl Path {
    /// It is made of names alone: it leads to one value of a row.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|segment| matches!(segment, Segment::Name(_)))
    }

    /// The names of a plain path.
    pub fn names(&self) -> Vec<String> {
        let name = |segment: &Segment| match segment {
            Segment::Name(name) => Some(name.clone()),
            _ => None,
        };
        self.0.iter().filter_map(name).collect()
    }

    /// A dot separates names; `\` before a dot, bracket, star or backslash makes it part of the name.
    /// The error says what was expected.
    pub fn parse(text: &str) -> Result<Path, String> {
        let mut segments = Vec::new();
        let mut name = String::new();
        // Whether `name` holds an escape, so that `\*` is a name and not a wildcard.
        let mut literal = false;
        // A name may begin here: at the start and behind a dot.
        let mut open = true;
        let mut characters = text.chars().peekable();
        loop {
            let next = characters.next();
            match next {
                Some('\\') => {
                    let escaped = characters.next().ok_or("a character behind the last `\\`")?;
                    if !open {
                        return Err("`.` or `[]` behind `[]`".into());
                    }
                    name.push(escaped);
                    literal = true;
                }
                None | Some('.' | '[') => {
                    let behind_element = !open && name.is_empty();
                    if !behind_element {
                        let first_element = next == Some('[') && segments.is_empty();
                        match (name.as_str(), literal) {
                            ("", false) if first_element => {}
                            ("", false) => return Err("a name between the dots".into()),
                            ("*", false) => segments.push(Segment::AnyName),
                            ("**", false) => segments.push(Segment::AnyDepth),
                            (wild, false) if wild.contains('*') => {
                                return Err("`*` or `**` as a whole name, or `\\*`".into());
                            }
                            _ => segments.push(Segment::Name(name.clone())),
                        }
                    }
                    name.clear();
                    literal = false;
                    match next {
                        None => return Ok(Path(segments)),
                        Some('.') => open = true,
                        _ if characters.next() == Some(']') => {
                            segments.push(Segment::Element);
                            open = false;
                        }
                        _ => return Err("`[]` for every element of an array".into()),
                    }
                }
                Some(other) => {
                    if !open {
                        return Err("`.` or `[]` behind `[]`".into());
                    }
                    name.push(other);
                }
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            if at > 0 && *segment != Segment::Element {
                f.write_str(".")?;
            }
            match segment {
                Segment::Element => f.write_str("[]")?,
                Segment::AnyName => f.write_str("*")?,
                Segment::AnyDepth => f.write_str("**")?,
                Segment::Name(name) => {
                    for character in name.chars() {
                        if matches!(character, '.' | '[' | '*' | '\\') {
                            f.write_str("\\")?;
                        }
                        write!(f, "{character}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_and_print_alike() {
        for text in [
            "a",
            "a.b",
            "a[].b",
            "a[][]",
            "[].x",
            "*.a",
            "**.a",
            "a.**",
            r"a\.b.c\*",
            "**",
            "a.*[]",
        ] {
            assert_eq!(Path::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Path::parse(r"a\.b[].\*").unwrap().0,
            [Segment::Name("a.b".into()), Segment::Element, Segment::Name("*".into())]
        );
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["", "a..b", ".a", "a.", "a[0]", "a[", "a[]b", "a*", "a\\"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }
}
