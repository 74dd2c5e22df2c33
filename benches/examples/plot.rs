//! Draws what `benches/compare.sh` measured: `plot TABLE SVG`. The table has tabs: tool, checkpoint, seconds, megabytes.

#![allow(
    clippy::unwrap_used,
    reason = "a wrong table is a mistake of the script"
)]

use cryostore_benches::plot::{Chart, Series, svg};

fn main() {
    let [table, out] = std::env::args_os()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .expect("plot TABLE SVG");
    let table = std::fs::read_to_string(table).unwrap();
    let chart = |title: &str, column: usize| {
        let mut series: Vec<Series> = Vec::new();
        for line in table.lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            let point = (cells[1].parse().unwrap(), cells[column].parse().unwrap());
            if series.last().is_none_or(|last| last.name != cells[0]) {
                series.push(Series {
                    name: cells[0].to_owned(),
                    points: Vec::new(),
                });
            }
            series.last_mut().unwrap().points.push(point);
        }
        Chart {
            title: title.to_owned(),
            x: "checkpoint".to_owned(),
            log: true,
            series,
        }
    };
    let charts = [
        chart("bytes that each checkpoint adds, MB", 3),
        chart("time to store it, seconds", 2),
    ];
    std::fs::write(out, svg("What each checkpoint costs", &charts)).unwrap();
}
