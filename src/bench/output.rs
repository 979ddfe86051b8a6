//! What the benchmark prints on standard output: text and aligned tables.

/// Prints a line on standard output.
#[expect(clippy::print_stdout, reason = "results are this command's output")]
pub fn line(text: &str) {
    println!("{text}");
}

/// Lays out rows in columns: the first line is the head, numbers align right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let columns = head.len();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let right: Vec<bool> = (0..columns)
        .map(|c| rows.iter().all(|row| row.get(c).is_none_or(|t| numeric(t))))
        .collect();
    let mut text = String::new();
    let mut push = |cells: &[String]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate().take(columns) {
            let (width, gap) = (widths[column], if column == 0 { "" } else { "  " });
            line.push_str(gap);
            if right[column] {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    push(&head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>());
    push(&widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>());
    for row in rows {
        push(row);
    }
    text.pop();
    text
}

fn numeric(text: &str) -> bool {
    text.is_empty() || text == "-" || text.starts_with(|c: char| c.is_ascii_digit())
}

/// A count with thousands separated.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_align_right_and_words_left() {
        let rows = vec![vec!["put".into(), "1,000".into()], vec!["get".into(), "7".into()]];
        let want = "op   per second\n---  ----------\nput       1,000\nget           7";
        assert_eq!(table(&["op", "per second"], &rows), want);
    }

    #[test]
    fn thousands_are_separated() {
        for (value, want) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(grouped(value), want);
        }
    }
}
