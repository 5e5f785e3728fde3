"""The web app: restorations in a browser on this machine (extra ``demo``)."""
