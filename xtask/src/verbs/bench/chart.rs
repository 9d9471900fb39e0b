//! The figures as a bar chart (SVG): each bar is Xenolith's part of Xen's figure, a mark is the goal.

use crate::verbs::bench::table::Row;

const LINE: usize = 26;
const LEFT: usize = 300;
const ONE: f64 = 420.0;
/// Ratios beyond this are cut; the number beside the bar tells them.
const MOST: f64 = 1.25;

/// Draws the rows that have a ratio.
pub(crate) fn svg(rows: &[Row]) -> String {
    let drawn: Vec<(&Row, f64)> = rows
        .iter()
        .filter_map(|row| Some((row, row.ratio()?)))
        .collect();
    let (top, height) = (64, 64 + drawn.len() * LINE + 20);
    let width = LEFT + (ONE * MOST) as usize + 110;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">Xenolith's cost as a part of Xen's, same guest, same emulator (shorter is better)</text>\n\
         <text x=\"10\" y=\"44\" fill=\"#555\">line: Xen = 1; mark: goal; green: goal met, red: not met, grey: no goal</text>\n"
    );
    for (index, (row, ratio)) in drawn.iter().enumerate() {
        svg.push_str(&bar(row, *ratio, top + index * LINE));
    }
    let (x, bottom) = (LEFT as f64 + ONE, height - 12);
    svg.push_str(&format!(
        "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"black\"/>\n</svg>\n",
        top - 6
    ));
    svg
}

fn bar(row: &Row, ratio: f64, y: usize) -> String {
    let colour = match row.met() {
        Some(true) => "#3a8f4d",
        Some(false) => "#c0392b",
        None => "#8a8a8a",
    };
    let (length, middle, name) = (ONE * ratio.min(MOST), y + 14, escaped(&shown(row)));
    let (right, end) = (LEFT - 8, LEFT as f64 + length + 6.0);
    let mut text = format!(
        "<text x=\"{right}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\n\
         <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
         <text x=\"{end:.1}\" y=\"{middle}\">{ratio:.2}</text>\n"
    );
    if let Some(goal) = row.goal_ratio() {
        let x = LEFT as f64 + ONE * goal.min(MOST);
        let (above, below) = (y - 2, y + 20);
        text.push_str(&format!("<line x1=\"{x:.1}\" y1=\"{above}\" x2=\"{x:.1}\" y2=\"{below}\" stroke=\"#1f4e9c\" stroke-width=\"3\"/>\n"));
    }
    text
}

fn shown(row: &Row) -> String {
    if row.is_of_bare() {
        format!("{} (bare machine = 1)", row.name)
    } else {
        row.name.clone()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::verbs::bench::table::Goal;

    #[test]
    fn only_rows_with_a_ratio_have_a_bar() {
        let row = |name: &str, xen| {
            let goal = Some(Goal::OfXen(0.4));
            Row::new(name, Arch::Aarch64, "dom0", "instructions", goal).measured(Some(40), xen)
        };
        let text = svg(&[row("a<b", Some(100)), row("unmeasured", None)]);
        assert!(text.contains("a&lt;b") && !text.contains("unmeasured"));
        assert!(text.contains("0.40") && text.ends_with("</svg>\n"));
    }
}
