//! Tables that fit the terminal: columns with names give way, columns with numbers do not.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const GAP: &str = "  ";
/// Below it a name says nothing any more.
const NARROWEST: usize = 8;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// To the left, whole.
    Left(&'static str),
    /// To the right, whole.
    Right(&'static str),
    /// To the left, shortened where there is no room.
    Name(&'static str),
}

impl Column {
    const fn head(self) -> &'static str {
        match self {
            Self::Left(head) | Self::Right(head) | Self::Name(head) => head,
        }
    }
}

/// Rows of cells.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    width: Option<usize>,
}

impl Table {
    /// An empty table, for so many columns of a terminal.
    pub(crate) fn new(columns: impl Into<Vec<Column>>, width: Option<usize>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
            width,
        }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<_> = self
            .columns
            .iter()
            .map(|column| column.head().width())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let Some(room) = self.width else {
            return widths;
        };
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > room {
            let shrinkable = |(n, width): &(usize, &mut usize)| {
                matches!(self.columns.get(*n), Some(Column::Name(_))) && **width > NARROWEST
            };
            let widest = widths
                .iter_mut()
                .enumerate()
                .filter(shrinkable)
                .max_by_key(|(_, width)| **width);
            match widest {
                Some((_, width)) => *width -= 1,
                None => break,
            }
        }
        widths
    }
}

fn shorten(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > room {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let heads = self
            .columns
            .iter()
            .map(|column| column.head().to_owned())
            .collect();
        let has_heads = self.columns.iter().any(|column| !column.head().is_empty());
        for row in has_heads.then_some(&heads).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if n > 0 {
                    line.push_str(GAP);
                }
                let cell = shorten(cell, *width);
                let space = " ".repeat(width.saturating_sub(cell.width()));
                match self.columns.get(n) {
                    Some(Column::Right(_)) => line.extend([space, cell]),
                    _ => line.extend([cell, space]),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(width: Option<usize>) -> String {
        let mut table = Table::new(
            [
                Column::Left("ID"),
                Column::Name("CONTAINER"),
                Column::Right("SIZE"),
            ],
            width,
        );
        table.row([
            "abc".to_owned(),
            "default/a-long-name/容器".to_owned(),
            "1 B".to_owned(),
        ]);
        table.row(["d".to_owned(), "x".to_owned(), "1000 B".to_owned()]);
        table.to_string()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(None);
        assert_eq!(
            text,
            "ID   CONTAINER                   SIZE\nabc  default/a-long-name/容器     1 B\nd    x                         1000 B\n"
        );
    }

    #[test]
    fn in_a_narrow_terminal_names_are_shortened_and_numbers_are_not() {
        let text = table(Some(26));
        assert!(text.lines().all(|line| line.width() <= 26), "{text}");
        assert!(text.contains('…') && text.contains("1000 B"), "{text}");
        assert!(table(Some(1)).contains("1000 B"));
    }
}
