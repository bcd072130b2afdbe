"""The flow from video file to stored track, told in the order of its modules.

What a run is made of:

- `config`: settings from YAML, environment and flags, one class per step
- `schema`: the value types and the Arrow schema at every boundary
- `errors`: one class per thing a person can fix

The flow itself:

- `decode`: video -> probe, chunk plan, frames with presentation timestamps
- `detect`: frames -> detections on keyframes (ultralytics YOLO)
- `segment`: frames + box prompts -> masks (SAM 2, streaming, bounded, batched)
- `kalman`: motion model: predict, update, gate, smooth (filterpy)
- `track`: the loop inside a chunk: match, birth, correct, bridge, end -> tracklets + observations
- `stitch`: tracklets -> tracks, across chunk borders and gaps
- `georeference`: pixels -> ground metres -> lon/lat, with uncertainty
- `events`: tracks + zones and lines -> visits and crossings
- `store`: the ledger and the tables, in a folder of Parquet files or in PostGIS

What is made of the results:

- `reports`: a report is a name, SQL and parameters, the same on both stores
- `render`: annotated video
- `export`: MOT, COCO, GeoJSON, GeoParquet, CSV
- `evaluate`: HOTA, IDF1, MOTA and mask J against ground truth

Around it:

- `models`: names -> weights: bundled, local, cached or downloaded with checksum
- `demo`: synthetic scenes with exact truth, and the nano models trained on them
- `pipeline`: the wiring: Ray Data over chunks; the only module that imports Ray
- `doctor`: what is installed, and how to fix what is not
- `cli`: the `sightflow` command
"""

__version__ = "0.1.0"
