"""Channels by which people are told of incidents: Slack, PagerDuty, Grafana, a webhook, e-mail.

Belongs here: how each of them is spoken to. Does not belong here: what deserves to be told, and in which
words (`healing.notices`), when anything is sent (`orchestration`).
"""
