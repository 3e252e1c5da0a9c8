"""This stack against the official Compose configuration of the same Airflow, on this machine.

| module | gives |
|---|---|
| `profiles` | what is compared, as settings; the levers, each of which can be switched off |
| `stock` | the programs and the environment of the official configuration |
| `stack` | a running stack of one profile |
| `workloads` | the runs that are timed, from the metadata database |
| `usage` | CPU and memory of a whole stack |
| `session` | every figure of one stack |
| `results` | medians, ratios, machine and versions: what goes into `RESULTS.json` |
| `report` | the tables and the plot |
"""
