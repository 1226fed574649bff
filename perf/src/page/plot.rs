//! A plot of lines over a logarithmic axis, as inline SVG.

use std::fmt::Write;

use super::escaped;

/// Width and height, in pixels.
const SIZE: (f64, f64) = (760.0, 320.0);
/// Room for labels: left, right, top, bottom.
const MARGINS: (f64, f64, f64, f64) = (54.0, 150.0, 12.0, 42.0);
const COLOURS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"];

/// A plot.
pub struct Plot {
    title: String,
    across: String,
    up: String,
    lines: Vec<Line>,
}

/// One of its lines, with the name that the legend has.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Plot {
    /// A plot without lines.
    pub fn new(title: &str, across: &str, up: &str) -> Self {
        Self { title: title.into(), across: across.into(), up: up.into(), lines: Vec::new() }
    }

    /// Adds a point to the line of this name.
    pub fn add(&mut self, name: &str, point: (f64, f64)) {
        match self.lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => self.lines.push(Line { name: name.into(), points: vec![point] }),
        }
    }

    /// Whether there is anything to see.
    pub fn has_points(&self) -> bool {
        !self.lines.is_empty()
    }

    /// The plot with its title.
    pub fn figure(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let most = points().map(|point| point.1).fold(0.0, f64::max).max(1.0) * 1.08;
        let decades = points().map(|point| point.0.max(1.0).log10().ceil()).fold(1.0, f64::max);
        let (width, height) = SIZE;
        let (left, right, top, bottom) = MARGINS;
        let x = |value: f64| left + value.max(1.0).log10() / decades * (width - left - right);
        let y = |value: f64| height - bottom - value / most * (height - top - bottom);
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\">",
            escaped(&self.title)
        );
        for decade in 0..=decades as u32 {
            let at = x(10f64.powf(f64::from(decade)));
            let (low, label) = (height - bottom, power(decade));
            let _ = write!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{low}\" stroke=\"#eee\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                low + 16.0
            );
        }
        for tick in 0..=4 {
            let value = most * f64::from(tick) / 4.0;
            let (at, end) = (y(value), width - right);
            let _ = write!(
                svg,
                "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\" stroke=\"#eee\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
                left - 6.0,
                at + 4.0
            );
        }
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let places: Vec<String> = line
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
                .collect();
            let _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                places.join(" ")
            );
            for place in &places {
                let (across, down) = place.split_once(',').unwrap_or_default();
                let _ = write!(
                    svg,
                    "<circle cx=\"{across}\" cy=\"{down}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                width - right + 14.0,
                top + 14.0 + 18.0 * number as f64,
                escaped(&line.name)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"4\" y=\"{:.1}\">{}</text></svg></figure>",
            left + (width - left - right) / 2.0,
            height - 6.0,
            self.across,
            top + 8.0,
            self.up
        );
        svg
    }
}

fn power(decade: u32) -> String {
    match decade {
        0..3 => 10u32.pow(decade).to_string(),
        3..6 => format!("{}k", 10u32.pow(decade - 3)),
        _ => format!("{}M", 10u64.pow(decade - 6)),
    }
}
