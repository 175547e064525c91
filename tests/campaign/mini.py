"""Runs the small campaign as a script, the way `runners/` do."""

if __name__ == "__main__":
    from mini_campaign import CAMPAIGN

    from ngpt.campaign.command import CampaignStudy
    from ngpt.campaign.engine import main

    main(CAMPAIGN.name, [CampaignStudy(CAMPAIGN)])
