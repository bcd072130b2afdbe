"""The flow from video file to stored track, told in the order of its modules.

What a run is made of:

- `config`: settings from YAML, environment and flags, one class per step
- `schema`: the value types and the Arrow schema at every boundary
- `errors`: one class per thing a person can fix

The flow itself:

- `media`: paths and addresses -> videos, opened with care
- `probe`: video -> what it is: size, rate, duration, start time, content hash
- `decode`: video -> chunk plan, frames with presentation timestamps
- `detect`: frames -> detections on keyframes (ultralytics YOLO)
- `segment`: frames + box prompts -> masks (SAM 2, streaming, bounded, batched)
  - `prepare`: frames -> what SAM 2 and optical flow see of them, ahead of time
  - `memory`: what SAM 2 remembers of each object, read by many in one batch
  - `lighter`: SAM 2's modules without work they repeat
  - `onednn`: their products on a CPU
  - `outcome`: what a step of SAM 2 says -> segments: masks in the frame's pixels, or none
  - `carried`: boxes that flow carries from frame to frame, for segmenters that start from them
  - `refine`: coarse logits + pictures -> fine logits, close up
  - `soft_mask`: logits -> masks, measured as they are
  - `mask`: which pixels an object covers, and how that is stored
  - `outlines`: masks <-> outlines as polygons
  - `run_lengths`: stored masks -> run lengths on the whole frame
  - `batches`: model calls in batches that shrink to what the device's memory holds
- `track`: the loop inside a chunk: match, birth, correct, bridge, end -> tracklets + observations
  - `optical`: frames + boxes -> displacements (sparse optical flow)
  - `appearance`: frames + boxes -> colour histograms
  - `cues`: what speaks for a detection being a live object
  - `camera_motion`: how the camera itself moved from frame to frame (OpenCV)
  - `trust`: how far measurements can be trusted, masks by the detections matched to them
  - `entry`: new objects -> where they entered
  - `kalman`: motion model: predict, update, gate, smooth (filterpy)
  - `associate`: predicted boxes + detections -> pairs
  - `target`: one object of a chunk and the tracklet it leaves
- `process`: a chunk through detection and tracking
  - `ahead`: things made in a thread before they are asked for
  - `threads`: how many threads torch takes
- `stitch`: tracklets -> tracks, across chunk borders and gaps
  - `finished`: the ledger -> which chunks a source's tracks are made of, and which are missing
  - `audit`: stored tracklets -> how far their stitching can be trusted, without labels
  - `revise`: what a person decided about tracks: wrong, merged, split
- `locate`: observations -> observations on the ground, by calibration or telemetry
  - `georeference`: pixels -> ground metres -> lon/lat, with uncertainty
  - `calibrate`: control points -> calibration, a robust fit of ground plane and lens
  - `telemetry`: a drone's subtitle file -> its camera's poses
  - `flight`: pose + pixels -> ground positions, with uncertainty
- `zones`: YAML or GeoJSON -> zones and lines
- `events`: tracks + zones and lines -> visits, crossings, speeds, stops, work, encounters, cycles
- `store`: the ledger and the tables, in a folder of Parquet files or in PostGIS
- `plan`: videos -> chunks in the ledger, as lazily as work needs them
- `lease`: what a run has begun is its own while it lives
- `pools`: what the cluster has -> how many workers, and what each asks for
- `workers`: rows of the dataflow -> rows: claim and detect, track, commit
- `pipeline`: the wiring of all of this: Ray Data over chunks; the only module that imports Ray

What is made of the results:

- `reports`: a report is a name, SQL and parameters, the same on both stores
  - `statements`: the SQL of each
  - `printed`: all of them on one HTML page
- `tracks`: short numbers for tracks, the same in pictures and files
- `known`: names a person gave -> what the store has by them, or an error that tells what there is
- `render`: annotated video
  - `annotated`: frames -> frames with the tracks of one source, or of several side by side
  - `overlay`: what is drawn on a frame
  - `fonts`: a font that has every character of a text
  - `counters`: what zones and lines have counted at a time
  - `mp4`: frames and sound -> file
- `contact_sheet`: a track on one picture
- `privacy`: frames -> frames on which chosen classes cannot be recognised
- `metre_grid`: a calibration drawn on a still
- `export`: MOT, COCO, CSV, GeoJSON, GeoParquet, MF-JSON, CVAT, YOLO
- `ingest`: MOT and COCO files -> a source of a store
- `output`: files that appear whole or not at all
- `evaluate`: HOTA, IDF1, MOTA and mask J against ground truth
  - `annotations`: boxes and masks with identities, from MOT files or a store

Around it:

- `journal`: logs as JSON lines, each with the ids it is about
- `metrics`: what is measured of a run
- `models`: names -> weights -> networks
  - `catalog`: the named models, their publishers, sizes and checksums
  - `download`: one file, resumable and checked
- `demo`: synthetic scenes with exact truth, and the nano models trained on them
- `doctor`: what is installed, and how to fix what is not
  - `installation`: its checks of packages, drivers and codecs
- `cli`: the `sightflow` command
  - `run`: its command that runs the flow
  - `db`: its commands on the store itself
  - `places`: its commands about calibrations, zones and events
  - `exchange`: its commands that write files and read them
  - `console`: finding the store, printing tables
  - `progress`: a run's progress, from the ledger
"""

__version__ = "0.1.0"
