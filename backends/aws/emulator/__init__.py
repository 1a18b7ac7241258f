"""An AWS that runs things: moto as control plane, host processes or docker containers as data plane."""
