"""The REST service: releases and their stores, the next track of a user, the event log, and the workers."""
