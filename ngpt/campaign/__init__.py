"""Campaigns: arms x seeds and a rule fixed in advance, from plan to verdict to report.

Read in the order of the pipeline: `definition` (what is stated), `execution` (what is run and collected), `analysis`
(what is judged), `report` (what is shown); `engine` carries out all of it for `command` (campaigns) and for `gates`.
"""
