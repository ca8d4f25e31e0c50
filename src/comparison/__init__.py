"""From tracked runs to set-ups side by side: means, differences, a report and a picture."""
