"""Diagnosis of one link: facts in frozen records, judged stage by stage up to the first thing wrong. Pure."""
