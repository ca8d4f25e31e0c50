"""The REST service: releases and their stores, one user's next track, the event log, and the workers that answer."""
