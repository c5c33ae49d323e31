"""A team's pictures and instructions as the samples of a curation: readers, checks, subsets.

A reader knows where every row lies and holds no picture; `source.TeamSamples` looks at the rows once, keeps what it saw
under the output's `.work/`, and hands out samples and failures by number.
"""
